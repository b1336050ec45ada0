"""The JupyterHub REST API, as far as Replay asks it, typed.

https://jupyterhub.readthedocs.io/en/stable/reference/rest-api.html. The scopes that this needs, no more:
``servers``, ``read:servers``, ``read:users:name`` (for people's names and servers) and ``read:users:groups`` (without it nobody is
known to have left a VO while their session runs).
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import httpx_sse
import stamina
from pydantic import AwareDatetime, BaseModel, ValidationError

from replay_build_service.domain import LaunchId, Server, ServerStatus, StartProgress
from replay_build_service.errors import Conflict, Refused, SourceFault
from replay_build_service.schemas import ReadingModel, ReadingRequest, SessionReport

log = logging.getLogger(__name__)

ANSWER_SECONDS = 15.0
REPORT_SECONDS = 1.0
"""For what is shown beside other things, and left out where it does not come in time."""

PROGRESS_SILENCE_SECONDS = 120.0
"""The hub sends a comment every few seconds while a server starts."""


class _ServerModel(BaseModel):
    ready: bool = False
    pending: str | None = None
    url: str = ""
    user_options: dict[str, Any] | None = None
    last_activity: AwareDatetime | None = None


class _GroupsModel(BaseModel):
    groups: list[str] | None = None


class _UserModel(_GroupsModel):
    servers: dict[str, _ServerModel] = {}


class _ProgressModel(BaseModel):
    message: str = ""
    ready: bool = False
    failed: bool = False


class _ErrorModel(BaseModel):
    message: str


class HubClient:
    """One connection pool to the hub. Use as an asynchronous context manager."""

    def __init__(self, api_url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=api_url.rstrip("/") + "/",
            headers={"Authorization": f"token {token}"},
            timeout=httpx.Timeout(ANSWER_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=50, keepalive_expiry=300),
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def server(self, user: str, server_name: str) -> Server:
        """What the hub says of a person's server. Raises `SourceFault` where it does not answer."""
        response = await self._ask("GET", f"users/{_segment(user)}")
        if response.status_code == 404:
            return Server(ServerStatus.ABSENT)
        try:
            user_model = _UserModel.model_validate(_body(response))
        except ValidationError as error:
            raise SourceFault("The hub's answer was not understood. Try again in a moment.") from error
        model = user_model.servers.get(server_name)
        groups = None if user_model.groups is None else frozenset(user_model.groups)
        if model is None:
            return Server(ServerStatus.ABSENT, groups=groups)
        match model.pending, model.ready:
            case "stop", _:
                status = ServerStatus.STOPPING
            case None, True:
                status = ServerStatus.READY
            case None, False:
                return Server(ServerStatus.ABSENT, groups=groups)
            case _:
                status = ServerStatus.STARTING
        launch = (model.user_options or {}).get("launch")
        launch_id = LaunchId(launch) if isinstance(launch, str) else None
        return Server(status, model.url, launch_id, model.last_activity, groups)

    async def groups(self, user: str) -> frozenset[str] | None:
        """The person's groups; none where there is no such person, or the service lacks the scope ``read:users:groups``.

        Raises `SourceFault` where the hub does not answer.
        """
        response = await self._ask("GET", f"users/{_segment(user)}")
        if response.status_code == 404:
            return None
        try:
            groups = _GroupsModel.model_validate(_body(response)).groups
        except ValidationError as error:
            raise SourceFault("The hub's answer was not understood. Try again in a moment.") from error
        return None if groups is None else frozenset(groups)

    async def start(self, user: str, server_name: str, launch_id: LaunchId) -> None:
        """Ask for a server of that launch: the bare body, which JupyterHub 5.5 and 6 both take whole as the options.

        Raises `Conflict` with the hub's reason where it refuses.
        """
        response = await self._ask("POST", _server_path(user, server_name), content=json.dumps({"launch": launch_id}))
        if response.status_code not in {201, 202}:
            raise Conflict(f"The hub did not start your server: {_message(response)}")

    async def stop(self, user: str, server_name: str) -> None:
        """Ask for a server's end; it may take a while. No error where there is none."""
        response = await self._ask("DELETE", _server_path(user, server_name))
        if response.status_code not in {202, 204, 404}:
            raise Conflict(f"The hub did not stop your server: {_message(response)}")

    async def reading(self, user: str, launch_id: LaunchId, token: str) -> ReadingModel:
        """A way in to a person's running session, with a token of theirs.

        Raises `Refused` where that token does not open the session, `Conflict` where no session of the launch runs.
        """
        content = ReadingRequest(launch=launch_id).model_dump_json()
        path = f"replay/sessions/{_segment(user)}/reading"
        response = await self._ask("POST", path, content=content, token=token)
        match response.status_code:
            case 200:
                try:
                    return ReadingModel.model_validate(_body(response))
                except ValidationError as error:
                    raise SourceFault("The hub's answer was not understood. Try again in a moment.") from error
            case 401 | 403:
                raise Refused(
                    "The hub does not let Replay read your session. Log out and in again; if it stays so, an administrator "
                    "must let the service “replay” act for you there: access:servers!user in its oauth_client_allowed_scopes."
                )
            case 404:
                raise Conflict("Your session has ended, so there is nothing to download any more.")
            case _:
                raise Conflict(f"The hub did not open your session for reading: {_message(response)}")

    async def session_report(self, user: str) -> SessionReport | None:
        """What the hub tells of a person's running session; none where there is none, or it is not told in time.

        A comfort of pages that people wait for: asked once, for a moment, and no fault is raised.
        """
        try:
            path = f"replay/sessions/{_segment(user)}"
            async with asyncio.timeout(REPORT_SECONDS):
                response = await self._client.get(path)
            if response.status_code == 404:
                return None
            if response.status_code == 200:
                return SessionReport.model_validate_json(response.content)
            log.warning("The hub does not tell of the session of %r: it answered %s", user, response.status_code)
        except (httpx.TransportError, TimeoutError, ValidationError, Conflict) as error:
            log.warning("The hub does not tell of the session of %r: %r", user, error)
        return None

    async def progress(self, user: str, server_name: str) -> AsyncIterator[StartProgress]:
        """The events of a server's start, until it is ready or has failed."""
        try:
            async with httpx_sse.aconnect_sse(
                self._client,
                "GET",
                f"{_server_path(user, server_name)}/progress",
                timeout=httpx.Timeout(ANSWER_SECONDS, read=PROGRESS_SILENCE_SECONDS),
            ) as source:
                if source.response.status_code != 200:
                    await source.response.aread()
                    raise Conflict(f"The hub is not starting your server: {_message(source.response)}")
                async for event in source.aiter_sse():
                    model = _ProgressModel.model_validate_json(event.data)
                    yield StartProgress(_plain(model.message), model.ready, model.failed)
        except (httpx.TransportError, httpx_sse.SSEError, ValidationError) as error:
            log.warning("Following the start of the server of %r broke: %r", user, error)
            raise SourceFault("The hub stopped answering while your server started. Open the link again.") from error

    async def _ask(
        self, method: str, path: str, *, content: str | None = None, token: str | None = None
    ) -> httpx.Response:
        """``token`` is somebody's own, in place of the service's."""
        headers = {} if token is None else {"Authorization": f"token {token}"}
        try:
            async for attempt in stamina.retry_context(
                on=(httpx.TransportError, _ServerError), attempts=3, wait_initial=0.1, wait_max=1.0, timeout=None
            ):
                with attempt:
                    response = await self._client.request(method, path, content=content, headers=headers)
                    if response.status_code in {502, 503, 504} or (method == "GET" and response.status_code >= 500):
                        raise _ServerError(response.status_code)
                    if response.status_code in {401, 403} and method == "GET":
                        raise SourceFault(
                            "The hub does not let Replay look at servers. An administrator must give the service its scopes."
                        )
                    return response
        except (httpx.TransportError, _ServerError) as error:
            log.warning("The hub did not answer %s %s: %r", method, path, error)
            raise SourceFault("The hub does not answer just now. Try again in a moment.") from error
        raise AssertionError("the attempts end with an answer or an error")


class _ServerError(Exception):
    """The hub, or what is before it, answered with a fault of its own."""


_WRAPPED = re.compile(r"HTTP \d{3}: [^(]*\((?P<sentence>.*)\)", re.DOTALL)


def _plain(message: str) -> str:
    """The hub puts words of its own before a refusal's sentence, or brackets around it; a person needs the sentence."""
    sentence = message.removeprefix("Spawn failed: ")
    found = _WRAPPED.fullmatch(sentence)
    return found["sentence"] if found else sentence


def _server_path(user: str, server_name: str) -> str:
    path = f"users/{_segment(user)}"
    return f"{path}/servers/{_segment(server_name)}" if server_name else f"{path}/server"


def _segment(name: str) -> str:
    """A name as one part of a path. What is on the way to the hub may take “..” for a way up, encoded or not."""
    if name in {"", ".", ".."} or "/" in name or "\\" in name:
        raise Conflict("The hub has no person and no server of such a name.")
    return quote(name, safe="")


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _message(response: httpx.Response) -> str:
    try:
        return _ErrorModel.model_validate(_body(response)).message
    except ValidationError:
        return f"it answered {response.status_code}."
