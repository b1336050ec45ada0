"""What spawners have in common whose sessions leave something that must go with them: a container, a pod."""

import asyncio
from collections.abc import AsyncGenerator
from inspect import isawaitable
from typing import Any

from tornado import web
from traitlets import Float

from replay_build_service.schemas import ImageModel, LaunchPlan
from replay_spawner import images
from replay_spawner.featured import FeaturesMixin
from replay_spawner.steps import Steps


class SessionMixin(FeaturesMixin):
    """Knows whether this server is a launch's session, also after a restart of the hub, and tells of its start."""

    replay_answer_timeout = Float(
        None,
        allow_none=True,
        help="Seconds that a session's server has to answer; `http_timeout` where none are given. `start_timeout` ends it, too.",
    ).tag(config=True)

    _session: str | None = None
    """The launch that this server is, none for an ordinary one; kept over a restart of the hub."""

    _may_exist = False
    """Whether there may be something of the session that is still to be removed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._steps, self._began = Steps(), asyncio.Event()
        super().__init__(*args, **kwargs)

    async def _discard(self) -> None:
        """Remove what belongs to the session, now or later; raises nothing."""
        raise NotImplementedError

    def _refuse_root(self, image: ImageModel) -> None:
        if images.runs_as_root(image.user):
            raise self.refusal(422, images.ROOT_IMAGE)

    def _refusal_without_digest(self, plan: LaunchPlan) -> web.HTTPError:
        self.log.error("The image of launch %s has no digest: %s", plan.launch, plan.location)
        return self.refusal(
            422, "The image of this launch is not known by its digest, so it cannot be run. Tell the administrators."
        )

    async def progress(self) -> AsyncGenerator[dict[str, Any]]:
        """What is being done for a launch; the hub stops asking when the start has ended."""
        # Whether this is a launch is known once its plan has come.
        await self._began.wait()
        if self.plan is None:
            async for event in super().progress():
                yield event
            return
        async for step in self._steps.follow():
            yield step

    async def run_post_stop_hook(self) -> None:
        """Also when a server died by itself or never started, what belonged to its session goes."""
        await self._end_features()
        await self._discard()
        hook: Any = super().run_post_stop_hook()
        if isawaitable(hook):
            await hook

    def get_state(self) -> dict[str, Any]:
        """What a restarted hub needs: what there is of the session, and that it is a launch's."""
        state: dict[str, Any] = super().get_state()
        if self._session is not None and self._may_exist:
            state["replay_launch"] = self._session
        return state
