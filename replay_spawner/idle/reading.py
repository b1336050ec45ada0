"""What a session's server says of itself, over Jupyter's own API. It may be any program: all is bounded and nothing believed.

https://jupyter-server.readthedocs.io/en/latest/developers/rest-api.html. ``no_track_activity`` keeps what we ask out of what
the server tells the hub of its activity; past the proxy, what we ask is no traffic either.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

MOST_BYTES = 1024 * 1024
"""Of one answer."""

ANSWER_SECONDS = 3.0
MOST_SAVED = 20
"""Open notebooks whose files are looked at."""

SESSION_SECTION = "replay_session"
"""What the extension in JupyterLab shows: written by us."""

ACTIVITY_SECTION = "replay_activity"
"""What the extension in JupyterLab saw its person do: written there."""

_MOST_SKEW = timedelta(days=1)
_UNTRACKED = {"no_track_activity": "1"}


class NoReading(Exception):
    """The server did not answer, or what it answered is nothing that Jupyter would say."""


class NotThere(NoReading):
    """It does not have that."""


class _Kernel(BaseModel):
    execution_state: Annotated[str, Field(max_length=64)]
    last_activity: AwareDatetime


class _Terminal(BaseModel):
    name: Annotated[str, Field(max_length=255)]
    last_activity: AwareDatetime


class _Session(BaseModel):
    path: str = ""
    type: str = ""


class _Contents(BaseModel):
    type: Literal["notebook", "file"]
    last_modified: AwareDatetime


class _Activity(BaseModel):
    person_at: AwareDatetime | None = None


class _Apps(BaseModel):
    server_processes: list[Any]


_T = TypeVar("_T")

_KERNELS = TypeAdapter(list[_Kernel])
_TERMINALS = TypeAdapter(list[_Terminal])
_SESSIONS = TypeAdapter(list[_Session])
_CONTENTS: TypeAdapter[_Contents | None] = TypeAdapter(_Contents)
_ACTIVITY = TypeAdapter(_Activity)
_APPS = TypeAdapter(_Apps)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a server told, with the times that it said, by its own clock."""

    at: datetime
    """Its own now."""
    is_busy: bool
    kernels: tuple[datetime, ...]
    terminals: tuple[datetime, ...]
    saved: tuple[datetime, ...]
    person: datetime | None
    has_apps: bool

    def age(self, time: datetime) -> timedelta:
        """By the one clock; what has not happened yet happens now."""
        return max(timedelta(), self.at - time)


class SessionServer:
    """One session's server, asked directly: with a token that opens nothing but that server."""

    def __init__(self, http: httpx.AsyncClient, address: str, token: str) -> None:
        self._http = http
        self.address = address.rstrip("/") + "/"
        self.headers = {"Authorization": f"token {token}", "Accept-Encoding": "identity"}

    async def read(self, but_terminals: Collection[str] = ()) -> Answers:
        """All that tells whether it is used, leaving out the terminals of these names. Raises `NoReading`.

        Without kernels it is no Jupyter; what else it lacks or says wrongly tells nothing.
        """
        (at, kernels), terminals, sessions, activity, apps = await asyncio.gather(
            self._asked("api/kernels", _KERNELS),
            self._told("api/terminals", _TERMINALS, []),
            self._told("api/sessions", _SESSIONS, []),
            self._told(f"api/config/{ACTIVITY_SECTION}", _ACTIVITY, _Activity()),
            self._told("server-proxy/servers-info", _APPS, _Apps(server_processes=[])),
        )
        return Answers(
            at=at,
            # One that only starts has done something lately, or it never gets further: that is no use.
            is_busy=any(kernel.execution_state == "busy" for kernel in kernels),
            kernels=tuple(kernel.last_activity for kernel in kernels),
            terminals=tuple(one.last_activity for one in terminals if one.name not in but_terminals),
            saved=await self._saved(sessions),
            person=activity.person_at,
            has_apps=bool(apps.server_processes),
        )

    async def show(self, ends_at: datetime | None, limit: timedelta, service: str, launch: str | None) -> None:
        """Leave word for the extension in JupyterLab; times by this server's clock. Raises `NoReading`."""
        section = {
            "ends_at": None if ends_at is None else ends_at.isoformat(),
            "limit": limit.total_seconds(),
            "service": service,
            "launch": launch,
        }
        await self.ask("PATCH", f"api/config/{SESSION_SECTION}", section)

    async def ask(self, method: str, path: str, body: object = None, **more: str) -> tuple[datetime, bytes]:
        """One question, with ``more`` in its query: the server's clock and the answer's body. Raises `NoReading`."""
        address, query = self.address + path, _UNTRACKED | more
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self._http.stream(method, address, params=query, json=body, headers=self.headers) as answer,
            ):
                if answer.status_code == 404:
                    raise NotThere(f"It has no {path}")
                if not answer.is_success:
                    raise NoReading(f"It answered {path} with {answer.status_code}")
                return _clock(answer.headers.get("Date", "")), await _bounded(answer)
        except TimeoutError as error:
            raise NoReading(f"It did not answer {path} in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoReading(f"It did not answer {path}: {type(error).__name__}") from error

    async def _asked(self, path: str, kind: TypeAdapter[_T], **more: str) -> tuple[datetime, _T]:
        at, body = await self.ask("GET", path, **more)
        try:
            return at, kind.validate_json(body)
        except ValidationError as error:
            raise NoReading(f"It answered {path} with something else") from error

    async def _told(self, path: str, kind: TypeAdapter[_T], nothing: _T, **more: str) -> _T:
        try:
            _, told = await self._asked(path, kind, **more)
        except NoReading:
            return nothing
        return told

    async def _saved(self, sessions: Sequence[_Session]) -> tuple[datetime, ...]:
        paths = [one.path for one in sessions if one.type in {"notebook", "file"} and one.path][:MOST_SAVED]
        found = await asyncio.gather(
            *(self._told(f"api/contents/{quote(path)}", _CONTENTS, None, content="0") for path in paths)
        )
        return tuple(one.last_modified for one in found if one is not None)


def http_client() -> httpx.AsyncClient:
    """For all servers: follows no redirect, knows no proxy, and takes no cookie of one that another would get."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5)
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits, cookies=no_cookies, trust_env=False)


async def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    # As it came: what was asked for is not compressed, and what is compressed all the same may be a bomb.
    async for part in answer.aiter_raw():
        body += part
        if len(body) > MOST_BYTES:
            raise NoReading("Its answer does not end")
    return bytes(body)


def _clock(date: str) -> datetime:
    """The server's own clock; ours where it tells none, or one that no clock shows."""
    now = datetime.now(UTC)
    try:
        told = parsedate_to_datetime(date)
        at = told if told.tzinfo else told.replace(tzinfo=UTC)
        return at if abs(at - now) < _MOST_SKEW else now
    except (ValueError, OverflowError):
        return now
