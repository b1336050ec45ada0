"""What every Replay spawner does: ask for the launch's plan, apply it last, refuse what is not a fresh launch.

A spawn that brings no fresh launch is the admin's ordinary server, untouched, where the site allows ordinary servers.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jupyterhub.spawner import Spawner
from pydantic import BaseModel, ConfigDict, ValidationError
from tornado import web
from traitlets import Bool, Unicode

from replay_build_service.client import PlanRefused, ReplayClient, ServiceUnavailable
from replay_build_service.schemas import LaunchPlan, PlanRequest

LAUNCH_OPTIONS = frozenset({"launch", "repo", "vo", "urlpath"})
"""The user options that are Replay's; all others stay the admin's."""

_NAMING = frozenset({"launch", "repo"})
"""Options that name what to run. In a query they also come with JupyterHub 6's prefix ``opt-``."""

_clients: dict[tuple[str, str], ReplayClient] = {}


class ReplayMixin(Spawner):
    """Comes before a spawner class: ``class ReplayKubeSpawner(ReplayMixin, KubeSpawner)``."""

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
        True, help="Whether a spawn without a launch starts the hub's ordinary server. Otherwise it leads to Replay's home."
    ).tag(config=True)

    plan: LaunchPlan | None = None
    """What this spawn runs; none for an ordinary server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overridden: dict[str, Any] = {}

    # JupyterHub wants these named in every subclass; the spawner class beside this one has them.

    async def start(self) -> Any:
        address: Any = await super().start()
        return address

    async def stop(self, now: bool = False) -> None:
        await super().stop(now)

    async def poll(self) -> int | None:
        status: int | None = await super().poll()
        return status

    # what a browser may ask for

    def options_from_query(self, query_data: dict[str, list[str]]) -> dict[str, Any]:
        """A query never names what runs: it would let any page in the world start it.

        JupyterHub catches what is raised here and asks for the options form, where the person is led to the launch's page.
        """
        if _named(query_data):
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
        query = {name: [value.decode("utf8", "replace") for value in values] for name, values in handler.request.query_arguments.items()}
        if named := _named(query):
            name, value = named
            if name == "launch":
                return f"{self.replay_home_url}launches/{quote(value, safe='')}"
            urlpath = query.get("opt-urlpath") or query.get("urlpath")
            return f"{self.replay_home_url}v2/{quote(value, safe='/%')}" + (f"?{urlencode({'urlpath': urlpath[0]})}" if urlpath else "")
        return None if self.replay_ordinary_servers else self.replay_home_url

    # from a launch to its plan

    async def _run_apply_user_options(self, user_options: dict[str, Any]) -> None:
        """The admin's hook with the admin's options; then the launch's plan, over whatever was set before.

        JupyterHub calls this for every spawn (5.3 and later), without a timeout of its own.
        """
        self.restore()
        self.plan = None
        await super()._run_apply_user_options({key: value for key, value in user_options.items() if key not in LAUNCH_OPTIONS})
        self.plan = await self._fetch_plan(user_options)
        if self.plan is not None:
            self.user_options = {**user_options, "launch": self.plan.launch}
            self.orm_spawner.user_options = {"launch": self.plan.launch}
            self.log.info("%s runs launch %s: %s at %s", self._log_name, self.plan.launch, self.plan.repository, self.plan.version)

    async def _fetch_plan(self, user_options: dict[str, Any]) -> LaunchPlan | None:
        launch, repo = user_options.get("launch"), user_options.get("repo")
        was_asked_now = _asks_now(self.handler)
        if launch is None and (repo is None or not was_asked_now):
            return self._ordinary()
        if not isinstance(launch or repo, str):
            raise web.HTTPError(400, "“launch” and “repo” are text.")
        request = PlanRequest(
            user=self.user.name,
            server_name=self.name or "",
            launch=launch,
            repo=None if launch else repo,
            vo=_text(user_options, "vo"),
            urlpath=_text(user_options, "urlpath") or "",
            groups=[group.name for group in self.user.groups],
        )
        try:
            return await self._client().plan(request)
        except PlanRefused as error:
            if error.kind == "used" and not was_asked_now:
                # Stored options of an earlier server; JupyterHub brings them again for a plain “Start My Server”.
                return self._ordinary()
            raise web.HTTPError(409 if error.kind == "used" else 403, str(error)) from error
        except ServiceUnavailable as error:
            self.log.error("No plan for %s: %s", self._log_name, error)
            # Not a 5xx: those count towards JupyterHub's consecutive_failure_limit, which ends the hub.
            raise web.HTTPError(
                424, "Replay's build service does not answer, so this launch cannot start. Try again in a few minutes."
            ) from error

    def _ordinary(self) -> None:
        if not self.replay_ordinary_servers:
            raise web.HTTPError(
                403, f"This hub starts servers from repositories only. Go to {self.replay_home_url} and choose one."
            )

    def _client(self) -> ReplayClient:
        key = (self.replay_service_url, self.replay_token_file)
        if key not in _clients:
            _clients[key] = ReplayClient(self.replay_service_url, Path(self.replay_token_file))
        return _clients[key]

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
                "REPLAY_LINK": self.plan.link,
                "REPLAY_REPOSITORY": self.plan.repository,
                "REPLAY_COMMIT": self.plan.version,
                "REPLAY_IMAGE": self.plan.image,
                "REPLAY_VO": self.plan.vo,
            }
        return env


class _SpawnBody(BaseModel):
    """The body of the hub's ``POST …/server``: the options themselves, or under ``user_options`` (JupyterHub 6)."""

    model_config = ConfigDict(extra="allow")
    user_options: dict[str, Any] | None = None


def _named(query: dict[str, list[str]]) -> tuple[str, str] | None:
    for key, values in query.items():
        name = key.removeprefix("opt-")
        if name in _NAMING and values:
            return name, values[0]
    return None


def _asks_now(handler: Any) -> bool:
    """Whether this very request names what to run, by the REST API; otherwise the options were stored by an earlier one."""
    if handler is None or handler.request.method != "POST":
        return False
    try:
        body = _SpawnBody.model_validate_json(handler.request.body)
    except ValidationError:
        return False
    return bool(_NAMING & (body.model_extra or {}).keys() or _NAMING & (body.user_options or {}).keys())


def _text(options: dict[str, Any], name: str) -> str | None:
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise web.HTTPError(400, f"“{name}” is text.")
    return value
