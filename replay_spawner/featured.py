"""What spawners have in common whose sessions get features: chosen in the launch, prepared, kept fresh, ended.

How a file comes into a session is each spawner's own business: `deliver` and `read`.
"""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from inspect import isawaitable
from typing import Any, ClassVar

from pydantic import ValidationError

from replay_build_service.content_schemas import ContentModel
from replay_build_service.schemas import FeatureReport, LaunchPlan
from replay_spawner.features.base import HOME, Feature, Platform, SessionContext, SessionFile
from replay_spawner.features.keeping import SessionFeatures
from replay_spawner.features.loading import NoSuchFeature, feature_class
from replay_spawner.features.places import KeptFeatures, NoPlace, checked, path_in_session
from replay_spawner.features.tokens import tokens_of
from replay_spawner.lab import CONTAINER_FOLDER, LabExtensionMissing, lab_files
from replay_spawner.reading import end_ways_in
from replay_spawner.records import launch_record
from replay_spawner.spawner import ReplayMixin

END_SECONDS = 5.0
"""How long the end of a session waits for its features' own."""


class FeaturesMixin(ReplayMixin):
    """Gives a launch's session what was chosen for it beside its image."""

    platform: ClassVar[Platform]

    _features: SessionFeatures | None = None
    _context: SessionContext | None = None
    _files: Sequence[SessionFile] = ()
    """What the session was given at its start, with what was in it."""

    _endings: ClassVar[set[asyncio.Task[None]]] = set()
    """Features that are being ended, of all sessions of this hub."""

    async def deliver(self, files: Sequence[SessionFile]) -> None:
        """Put files in the place of those of the running session. Raises whatever it meets."""
        raise NotImplementedError

    async def read(self, files: Sequence[SessionFile]) -> Mapping[tuple[str, str], bytes]:
        """What the running session has of these, by folder and name. Raises whatever it meets."""
        raise NotImplementedError

    async def _prepare_features(self, plan: LaunchPlan, home: str, has: frozenset[str] | None = None) -> None:
        """Find out what the session is given. A feature that cannot be had is told of and left out."""
        await self._end_features()
        self._context = context = SessionContext(
            launch=plan.launch,
            user=self.user.name,
            vo=plan.vo,
            repository=plan.repository,
            version=plan.version,
            platform=self.platform,
            home=home,
            has=has,
            tokens=tokens_of(self.authenticator, self.user),
        )
        self._features = features = self._features_named(plan.features, context)
        await features.prepare()
        own = [*([_launch_file(plan)] if home else []), *self._lab_files()]
        try:
            self._files = checked([*own, *features.files])
        except NoPlace as error:
            self.log.error("No feature of launch %s can be given: %s", plan.launch, error)
            await features.end()
            self._features, self._files = self._features_named([], context, lacking=plan.features), own

    def _refuse_content(self, content: ContentModel, has: Collection[str] | None) -> None:
        """Refuse what cannot be brought into this session. ``has``: what the image's own repository has at its top, if that is known."""
        if has is not None and content.name in has:
            raise self.refusal(
                422,
                f"The environment's repository has a “{content.name}” of its own, where the files of {content.repository} would go. "
                "Ask the author of the link for another environment.",
            )
        if (content.fetcher is None) is (self.platform is Platform.POD):
            self.log.error("The build service brings contents into other sessions than this hub's spawner makes")
            raise self.refusal(
                422, "This hub cannot bring a second repository into a session. Tell the administrators."
            )

    def _lab_files(self) -> list[SessionFile]:
        """JupyterLab's extension, where the session does not see this machine's own."""
        if self.platform is Platform.PROCESS:
            return []
        try:
            files = lab_files()
        except LabExtensionMissing as error:
            self.log.warning("%s", error)
            return []
        return [SessionFile(str(CONTAINER_FOLDER), name, content, is_secret=False) for name, content in files.items()]

    def _features_named(
        self, names: Sequence[str], context: SessionContext, lacking: Sequence[str] = ()
    ) -> SessionFeatures:
        features: list[Feature] = []
        missing = list(lacking)
        for name in names:
            try:
                feature = feature_class(name)(parent=self)
            except NoSuchFeature as error:
                self.log.error("Launch %s: %s", context.launch, error)
                missing.append(name)
            except Exception:
                # Whatever is wrong with a community's own package, the session can do without.
                self.log.exception("Feature %r cannot be used", name)
                missing.append(name)
            else:
                feature.session = context
                features.append(feature)
        return SessionFeatures(features, self.log, missing)

    async def _deliver_at_start(self) -> None:
        """Bring the files into the session before it runs. What cannot be is brought later, and said."""
        try:
            await self.deliver(self._files)
        except Exception as error:  # noqa: BLE001 - an engine or a disk, in whatever words: the session can start without
            self.log.warning("%s: files could not be brought into the session: %r", self._log_name, error)
            if self._features is not None:
                self._features.not_brought()

    def _keep_features_fresh(self) -> None:
        if self._features is not None:
            self._features.keep_fresh(self)

    async def _end_features(self) -> None:
        """Have what is theirs given back. It goes on in the background where that takes longer than `END_SECONDS`."""
        features, self._features, self._files = self._features, None, ()
        if features is not None:
            ending = asyncio.get_running_loop().create_task(features.end(), name="end of a session's features")
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.wait({ending}, timeout=END_SECONDS)

    def feature_reports(self) -> list[FeatureReport]:
        """How it stands with each of the session's features, for the pages."""
        return [] if self._features is None else self._features.reports()

    # what the hub asks

    def get_env(self) -> dict[str, str]:
        """With the variables of the session's features, and where their files are."""
        env: dict[str, str] = super().get_env()
        return env if self.plan is None else env | self.feature_environment()

    def feature_environment(self) -> dict[str, str]:
        """What features say in the environment."""
        if self._features is None or self._context is None:
            return {}
        places = {file.variable: self.path_of(file) for file in self._files if file.variable and not file.container}
        return {**self._features.environment, **places}

    def path_of(self, file: SessionFile) -> str:
        """Where the session finds a file."""
        return path_in_session(file, self._context.home if self._context else "")

    async def run_post_stop_hook(self) -> None:
        """However the session ended; before its files go, since these are its own."""
        await self._end_features()
        end_ways_in(self.user)
        hook: Any = super().run_post_stop_hook()
        if isawaitable(hook):
            await hook

    def get_state(self) -> dict[str, Any]:
        """What a restarted hub needs to go on renewing."""
        state: dict[str, Any] = super().get_state()
        if self._features is not None and self._context is not None:
            kept = KeptFeatures.of(self._context, self._features.names, self._files)
            state["replay_features"] = kept.model_dump(mode="json")
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Find a running session's features again, and renew them at once."""
        super().load_state(state)
        # A state without a server is of one that has ended: a hub was killed while it cleared up.
        if self._features is not None or self.orm_spawner.server is None:
            return
        try:
            kept = KeptFeatures.in_state(state)
        except ValidationError as error:
            self.log.warning("%s: what it had beside its image cannot be read: %s", self._log_name, error)
            return
        if kept is None:
            return
        self._context = context = SessionContext(
            launch=kept.launch,
            user=self.user.name,
            vo=kept.vo,
            repository=kept.repository,
            version=kept.version,
            platform=self.platform,
            home=kept.home,
            has=None if kept.has is None else frozenset(kept.has),
            tokens=tokens_of(self.authenticator, self.user),
        )
        self._files = kept.places
        self._features = self._features_named(kept.names, context)
        self._features.resume(self, self._files)


def _launch_file(plan: LaunchPlan) -> SessionFile:
    """What made the session, for whoever finds its files later."""
    record = launch_record(plan, datetime.now(UTC))
    content = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    return SessionFile(f"{HOME}/.replay", "launch.json", content.encode(), is_secret=False)
