"""What every Replay spawner does: ask for the launch's plan, apply it last, refuse what is not a fresh launch.

A spawn that brings no fresh launch is the admin's ordinary server, untouched, where the site allows ordinary servers.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from jupyterhub import version_info
from jupyterhub.spawner import Spawner
from pydantic import BaseModel, ConfigDict, ValidationError
from tornado import web
from traitlets import Bool, Float, Unicode

from replay_build_service.client import PlanRefused, ReplayClient, ServiceUnavailable
from replay_build_service.schemas import LaunchPlan, PlanRequest, ResourcesModel
from replay_spawner.ends import Ends
from replay_spawner.plans import HUB_LABEL, LAUNCH_LABEL, launch_in
from replay_spawner.sweeping import Place, mark_of_hub, sweep_with
from replay_spawner.usage import Usage

LAUNCH_OPTIONS = frozenset({"launch", "repo", "vo", "urlpath", "content"})
"""The user options that are Replay's; all others stay the admin's."""

_NAMING = frozenset({"launch", "repo"})
"""Options that name what to run. In a query they also come with JupyterHub 6's prefix ``opt-``."""

_LAUNCH_ID = re.compile(r"[0-9a-f]{32}")

MOST_CHARACTERS = 16_000
"""Of any one option; what the service takes in one request is a little more."""

_clients: dict[tuple[str, str], ReplayClient] = {}


class ReplayMixin(Spawner):
    """Comes before a spawner class: ``class ReplayKubeSpawner(ReplayMixin, KubeSpawner)``.

    It fetches a launch's plan. To run it is the subclass's work, since only that knows what its servers are made of:
    where ``plan`` is set, the server must have the plan's ``command``, ``environment`` (with ``{home}`` replaced),
    ``location``, ``source`` and ``resources``, whatever else was configured. Set them with `override` in ``start``, or
    in ``load_user_options`` where the spawner class applies profiles there; the next spawn takes them back. Then set
    ``applies_plans``; `ReplayLocalSpawner`, `ReplayDockerSpawner` (of `replay_spawner.docker`) and `ReplayKubeSpawner` do.
    Without it launches are refused, and ordinary servers start as before.
    """

    replay_service_url = Unicode(
        "http://127.0.0.1:10101/services/replay/",
        help="Where the hub reaches the build service: its internal URL with its prefix.",
    ).tag(config=True)
    replay_token_file = Unicode(
        "replay-state/service_token", help="File with the token that spawner and service share; the service makes it."
    ).tag(config=True)
    replay_home_url = Unicode(
        "/services/replay/", help="Path of the service on the hub's host, where people are sent who bring no launch."
    ).tag(config=True)
    replay_ordinary_servers = Bool(
        True,
        help="Whether a spawn without a launch starts the hub's ordinary server. Otherwise it leads to Replay's home.",
    ).tag(config=True)

    replay_hub_name = Unicode(
        help="""What sessions of this hub are marked with, so that of several hubs on one engine or cluster each removes only
        what its own have left: letters, digits, `-`, `_` and `.`, 63 at most. Made of the hub's internal address where none is given.""",
    ).tag(config=True)
    replay_sweep_seconds = Float(
        300.0,
        help="Seconds between two looks for what a crash left of sessions, the first when the hub starts; 0: none.",
    ).tag(config=True)
    replay_sweep_grace = Float(
        300.0, help="Seconds: what is left of a session and is younger than this is removed by a later look."
    ).tag(config=True)

    applies_plans: ClassVar[bool] = False
    """Whether this class runs what a plan says. A launch must never start the admin's ordinary command instead."""

    plan: LaunchPlan | None = None
    """What this spawn runs; none for an ordinary server."""

    resources: ResourcesModel | None = None
    """What the plan gave the session; kept over a restart of the hub."""

    _ends: ClassVar[Ends] = Ends()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overridden: dict[str, Any] = {}
        sweep_with(self, lambda spawner: spawner.place_to_sweep())

    # JupyterHub wants these named in every subclass; the spawner class beside this one has them.

    async def start(self) -> Any:
        address: Any = await super().start()
        return address

    async def stop(self, now: bool = False) -> None:
        await super().stop(now)

    async def poll(self) -> int | None:
        status: int | None = await super().poll()
        return status

    def place_to_sweep(self) -> Place | None:
        """Where sessions of all servers of this hub leave something; none where nothing is to be looked for."""
        return None

    @property
    def hub_mark(self) -> str:
        """Of this hub alone, and the same after a restart."""
        return self.replay_hub_name or mark_of_hub(*self._what_the_hub_is())

    def _what_the_hub_is(self) -> tuple[str, ...]:
        # Two hubs may be reached by the same address, each in a network of its own; no two have the same secret.
        secret: object = (getattr(self.user, "settings", None) or {}).get("cookie_secret", b"")
        mark = hashlib.sha256(secret if isinstance(secret, bytes) else b"").hexdigest()
        return (str(self.hub.api_url) if self.hub is not None else "", mark)

    def session_labels(self, launch: str) -> dict[str, str]:
        """What marks everything of a session's that must not outlive it: labels of a container, a pod, a Secret."""
        return {LAUNCH_LABEL: launch, HUB_LABEL: self.hub_mark}

    def refusal(self, status: int, sentence: str) -> web.HTTPError:
        """What a start is refused with. ``status`` is below 500: a fault would count towards the hub's own end."""
        if version_info < (6,) and self.handler is not None:
            # JupyterHub 5 counts refusals too, and where `consecutive_failure_limit` is set it ends itself after a few.
            settings = self.handler.settings
            settings["failure_count"] = settings.get("failure_count", 0) - 1
        told = web.HTTPError(status, sentence)
        # The hub's pages about a failed start show this alone: any other message they replace or leave out.
        told.jupyterhub_message = sentence  # pyright: ignore[reportAttributeAccessIssue]
        return told

    # what a browser may ask for

    def options_from_query(self, query_data: dict[str, list[str]]) -> dict[str, Any]:
        """A query never names what runs: it would let any page in the world start it.

        JupyterHub catches what is raised here and asks for the options form, where the person is led to the launch's page.
        """
        # JupyterHub 6 leaves out names without its prefix where there are some with it.
        if _named(query_data) or (self.handler is not None and _named(_query_of(self.handler))):
            raise web.HTTPError(403, "A link cannot start a repository by itself. Open its own page and agree there.")
        return super().options_from_query(query_data)

    async def get_options_form(self) -> str | None:
        """The admin's form; for a GET that names a launch or a repository, the way to its page instead."""
        handler = self.handler
        if handler is not None and handler.request.method == "GET" and (target := self._where_instead(handler)):
            handler.redirect(target)
            raise web.Finish
        form: str | None = await super().get_options_form()
        return form

    def _where_instead(self, handler: web.RequestHandler) -> str | None:
        query = _query_of(handler)
        if named := _named(query):
            name, value = named
            if name == "launch":
                return f"{self.replay_home_url}launches/{quote(value, safe='')}"
            others = {key: query.get(f"opt-{key}") or query.get(key) for key in ("content", "urlpath")}
            link = f"{self.replay_home_url}v2/{quote(value, safe='/%')}"
            named_too = urlencode({key: values[0] for key, values in others.items() if values})
            return f"{link}?{named_too}" if named_too else link
        return None if self.replay_ordinary_servers else self.replay_home_url

    # from a launch to its plan

    async def _run_apply_user_options(self, user_options: dict[str, Any]) -> None:
        """The admin's hook with the admin's options; then the launch's plan, over whatever was set before.

        JupyterHub calls this for every spawn (5.3 and later), without a timeout of its own.
        """
        self.restore()
        self.plan = self.resources = None
        asked = _asked_now(self.handler, user_options)
        if not asked and not _was_launch(user_options):
            # The options are the admin's alone, whatever their names: from a form, or stored by an ordinary server.
            await super()._run_apply_user_options(user_options)
            return self._ordinary()
        others = {key: value for key, value in user_options.items() if key not in LAUNCH_OPTIONS}
        # What is stored is used again by the next spawn that brings no options: it must never name a repository, and a
        # launch only for as long as the server is that launch's.
        self.orm_spawner.user_options = others
        await super()._run_apply_user_options(others)
        if not asked:
            self.user_options = others
            return self._ordinary()
        if not self.applies_plans:
            self.log.error(
                "%s cannot run launches: build it on ReplayLocalSpawner, ReplayDockerSpawner or ReplayKubeSpawner, or see ReplayMixin.applies_plans",
                type(self).__name__,
            )
            raise self.refusal(
                422, "This hub's spawner cannot run repositories, so nothing was started. Tell the administrators."
            )
        self.plan = plan = await self._fetch_plan(user_options, **asked)
        self.resources = plan.resources
        self.user_options = self.orm_spawner.user_options = {**others, "launch": plan.launch}
        self.log.info("%s runs launch %s: %s at %s", self._log_name, plan.launch, plan.repository, plan.version)
        return None

    async def _fetch_plan(self, user_options: dict[str, Any], launch: Any = None, repo: Any = None) -> LaunchPlan:
        launch, repo = self._text("launch", launch), self._text("repo", repo)
        if launch is not None and not _LAUNCH_ID.fullmatch(launch):
            raise self.refusal(403, "There is no such launch of yours. Open the repository's link again.")
        if repo is not None and user_options.get("content"):
            raise self.refusal(
                400,
                "A server started by the hub's API cannot be given a second repository (content). POST it to the Replay service's "
                "api/launches, or open the link.",
            )
        vo, urlpath = (self._text(name, user_options.get(name)) for name in ("vo", "urlpath"))
        try:
            request = PlanRequest(
                user=self.user.name,
                server_name=self.name or "",
                launch=launch,
                repo=repo if launch is None else None,
                vo=vo,
                urlpath=urlpath or "",
                groups=[group.name for group in self.user.groups],
            )
        except ValidationError as error:
            problem = error.errors()[0]
            raise self.refusal(400, f"{problem['loc'][0]}: {problem['msg']}.") from error
        try:
            return await self._client().plan(request)
        except PlanRefused as error:
            raise self.refusal(409 if error.kind == "used" else 403, str(error)) from error
        except ServiceUnavailable as error:
            self.log.error("No plan for %s: %s", self._log_name, error)
            raise self.refusal(
                424, "Replay's build service does not answer, so this launch cannot start. Try again in a few minutes."
            ) from error

    def _text(self, name: str, value: Any) -> str | None:
        """An option of Replay's as it may go over the wire."""
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.refusal(400, f"“{name}” is text.")
        if len(value) > MOST_CHARACTERS:
            raise self.refusal(400, f"“{name}” is longer than {MOST_CHARACTERS} characters.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.refusal(400, f"“{name}” holds something that is no character.") from None
        return value

    def _ordinary(self) -> None:
        if not self.replay_ordinary_servers:
            raise self.refusal(
                403, f"This hub starts servers from repositories only. Go to {self.replay_home_url} and choose one."
            )

    def _client(self) -> ReplayClient:
        key = (self.replay_service_url, self.replay_token_file)
        if key not in _clients:
            _clients[key] = ReplayClient(self.replay_service_url, Path(self.replay_token_file))
        return _clients[key]

    # the session that runs, and its end

    @property
    def session_launch(self) -> str | None:
        """The launch whose session this server is now; none for an ordinary one, and where none runs."""
        return launch_in(self.user_options or {}) if self.active else None

    async def usage(self) -> Usage | None:
        """What the session uses now; none where nothing tells, or not in time."""
        return None

    def tell_end(self, launch: str, sentence: str | None) -> None:
        """Have the service told why a session ended by itself, where there is something to tell; waits for nothing.

        A server that is being stopped ends because of that.
        """
        if sentence is not None and not self._stop_pending:
            self._ends.log = self.log
            self._ends.tell(self._client(), launch, sentence)

    def get_state(self) -> dict[str, Any]:
        """What a restarted hub needs: also what its session was given."""
        state: dict[str, Any] = super().get_state()
        if self.resources is not None:
            state["replay_resources"] = self.resources.model_dump(mode="json", exclude_none=True)
        return state

    def clear_state(self) -> None:
        """JupyterHub asks this before a start and after an end: nothing of a session is kept beyond it."""
        super().clear_state()
        self.resources = None

    def load_state(self, state: dict[str, Any]) -> None:
        """Find a running session again."""
        super().load_state(state)
        if "replay_resources" in state:
            try:
                self.resources = ResourcesModel.model_validate(state["replay_resources"])
            except ValidationError as error:
                # Another version's: what a page then cannot say must not keep the hub from starting.
                self.log.warning("What %s was given cannot be read: %s", self._log_name, error)

    # the plan over the admin's settings, for one spawn

    def override(self, **values: Any) -> None:
        """Set traits for this spawn; the next one starts from what they were."""
        for name, value in values.items():
            self._overridden.setdefault(name, getattr(self, name))
            setattr(self, name, value)

    def restore(self) -> None:
        """Take back what `override` set."""
        for name, value in self._overridden.items():
            setattr(self, name, value)
        self._overridden = {}

    def get_env(self) -> dict[str, str]:
        """The session's environment, with what it is made from."""
        env: dict[str, str] = super().get_env()
        if self.plan is not None:
            env |= {
                "REPLAY_LAUNCH": self.plan.launch,
                "REPLAY_LINK": self.plan.link,
                "REPLAY_REPOSITORY": self.plan.repository,
                "REPLAY_COMMIT": self.plan.version,
                "REPLAY_IMAGE": self.plan.image,
                # Empty where the image was there already.
                "REPLAY_BUILD": self.plan.build or "",
                "REPLAY_VO": self.plan.vo,
            }
            if self.plan.content is not None:
                env |= {
                    "REPLAY_CONTENT_REPOSITORY": self.plan.content.repository,
                    "REPLAY_CONTENT_COMMIT": self.plan.content.version,
                    "REPLAY_CONTENT_FOLDER": self.plan.content.name,
                }
        return env


class _SpawnBody(BaseModel):
    """The body of the hub's ``POST …/server``: the options themselves, or under ``user_options`` (JupyterHub 6)."""

    model_config = ConfigDict(extra="allow")
    user_options: dict[str, Any] | None = None


def _query_of(handler: web.RequestHandler) -> dict[str, list[str]]:
    arguments = handler.request.query_arguments
    return {name: [value.decode("utf8", "replace") for value in values] for name, values in arguments.items()}


def _named(query: dict[str, list[str]]) -> tuple[str, str] | None:
    for key, values in query.items():
        name = key.removeprefix("opt-")
        if name in _NAMING and values:
            return name, values[0]
    return None


def _asked_now(handler: Any, user_options: dict[str, Any]) -> dict[str, Any]:
    """What this very request names to run, by the REST API's JSON; nothing where the options were stored by an earlier one."""
    if handler is None or handler.request.method != "POST":
        return {}
    try:
        # As the hub itself reads it: pydantic's own parser is stricter, and would take what the hub took for nothing.
        body = _SpawnBody.model_validate(json.loads(handler.request.body))
    except ValueError:
        return {}
    # JupyterHub 6 unwraps ``user_options``, 5.5 does not: what is not among the options now was not brought as one.
    brought = (body.model_extra or {}) | (body.user_options or {})
    return {
        name: brought[name]
        for name in _NAMING
        if brought.get(name) is not None and user_options.get(name) == brought[name]
    }


def _was_launch(user_options: dict[str, Any]) -> bool:
    """Whether these options were stored for a launch's server."""
    launch = user_options.get("launch")
    return isinstance(launch, str) and _LAUNCH_ID.fullmatch(launch) is not None
