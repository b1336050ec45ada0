"""What Onezone and a Oneprovider are asked on a person's behalf: their spaces, and a token for a session.

Each request and the whole conversation have limits of time and size. What the network does, or a server that is not well, is
never taken for an answer: it is asked again, and then it is `Unavailable`, with a sentence for the person.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, ClassVar, Self, TypeVar

import httpx
import stamina
from pydantic import BaseModel, Field, ValidationError

from replay_spawner.features.base import Unavailable
from replay_spawner.features.datahub.names import Space

MOST_BYTES = 4_000_000
"""Of an answer: ten thousand ids are a tenth of that."""

MOST_TOKEN = 32_768
"""Characters of a token; Onezone's have some hundred."""

MOST_CHARACTERS = 200
"""Of a space's name: Onezone itself takes 50."""

AT_ONCE = 8
"""How many requests one session's conversation has under way."""

MOST_PROVIDERS = 50
"""How many are looked at for the one with the configured host."""

_ATTEMPTS = 3

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


class _Spaces(BaseModel):
    spaces: list[_Id]


class _Providers(BaseModel):
    providers: list[_Id]


class _Space(BaseModel):
    name: str = Field(max_length=MOST_CHARACTERS)


class _Provider(BaseModel):
    domain: str
    online: bool | None = None


class _Configuration(BaseModel):
    provider_id: _Id = Field(alias="providerId")


class _TemporaryToken(BaseModel):
    token: Annotated[str, Field(pattern=r"^[\x21-\x7e]+$", max_length=MOST_TOKEN)]


_Answer = TypeVar("_Answer", bound=BaseModel)


class _NotAnswered(Exception):
    """Nothing that can be believed came; worth another try."""


class _Refused(Exception):
    """An answer that says no; with its status."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    request: float = 10.0
    conversation: float = 30.0
    """All requests of `found` together, and `token` as well."""


@dataclass(frozen=True, slots=True)
class Found:
    """The spaces of a person, as one provider supports them."""

    local: Sequence[Space]
    """Those that the provider supports, by name."""
    local_count: int
    """How many these are with those that were not looked at."""
    not_named: Sequence[str]
    """Ids of those that the DataHub did not name, for now."""
    elsewhere: int
    """How many spaces the provider does not support."""
    is_online: bool
    """Whether the provider is, as far as Onezone knows."""


@dataclass(frozen=True, slots=True)
class TemporaryToken:
    """A token that Onezone gave."""

    value: str
    expires_at: float
    """Seconds since the epoch, by this machine's clock."""

    def __repr__(self) -> str:
        return f"TemporaryToken(expires_at={self.expires_at})"


class Onezone:
    """A conversation on behalf of one person: ``async with Onezone(…) as onezone``.

    ``provider`` is the host of the Oneprovider, with a port where it is not 443. It is asked who it is by the scheme that
    ``url`` has.
    """

    _known_providers: ClassVar[dict[tuple[str, str], str]] = {}
    """Which provider has which host, by Onezone and host: it never changes."""

    def __init__(
        self,
        url: str,
        provider: str,
        access_token: str,
        *,
        ca_file: str = "",
        limits: Limits = Limits(),
        log: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._provider = provider
        self._token = access_token
        self._ca_file = ca_file
        self._limits = limits
        self._log = log or logging.getLogger(__name__)
        self._ahead = 0.0
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            verify = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        except OSError as error:
            self._log.error("The certificates in %s cannot be used: %s", self._ca_file, error)
            raise Unavailable(
                "The DataHub cannot be reached: this hub's settings for it are not usable. Tell the administrators."
            ) from error
        self._http = await self._open.enter_async_context(
            httpx.AsyncClient(
                verify=verify,
                timeout=self._limits.request,
                follow_redirects=False,  # a token goes to the configured host and nowhere else
                headers={"Accept": "application/json", "User-Agent": "Replay"},
            )
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._open.aclose()

    # what is asked

    async def found(self, most: int) -> Found:
        """The person's spaces; of those that the provider supports, the names of so many. Raises `Unavailable`."""
        return await self._bounded(self._found(most))

    async def token(self, caveats: Sequence[Mapping[str, Any]], *, seconds: float) -> TemporaryToken:
        """A temporary token with these caveats that lives for so long. Raises `Unavailable`."""
        return await self._bounded(self._new_token(caveats, seconds))

    async def _bounded(self, asking: Any) -> Any:
        try:
            async with asyncio.timeout(self._limits.conversation):
                return await asking
        except TimeoutError as error:
            self._log.warning("Onezone at %s was not done after %s s", self._url, self._limits.conversation)
            raise Unavailable("The DataHub answers too slowly.") from error
        except _NotAnswered as error:
            self._log.warning("Onezone at %s does not answer: %s", self._url, error)
            raise Unavailable("The DataHub does not answer as it should.") from error
        except _Refused as error:
            self._log.warning("Onezone at %s refused a request: %s", self._url, error.status)
            if error.status in {401, 403}:
                raise Unavailable("The DataHub does not accept this login.") from error
            raise Unavailable("The DataHub refused what it was asked.") from error

    async def _found(self, most: int) -> Found:
        everywhere = dict.fromkeys((await self._ask(_Spaces, "/user/effective_spaces")).spaces)
        providers = (await self._ask(_Providers, "/user/effective_providers")).providers
        provider = await self._provider_id(providers)
        if provider not in providers:
            return Found((), 0, (), len(everywhere), is_online=True)
        details = await self._ask(_Provider, f"/user/effective_providers/{provider}")
        supported = set((await self._ask(_Spaces, f"/user/effective_providers/{provider}/spaces")).spaces)
        local = sorted(one for one in everywhere if one in supported)
        async with asyncio.TaskGroup() as asking:
            named = {one: asking.create_task(self._named(one)) for one in local[:most]}
        spaces = [space for task in named.values() if (space := task.result())]
        return Found(
            local=sorted(spaces, key=lambda space: (space.name.casefold(), space.id)),
            local_count=len(local),
            not_named=[one for one, task in named.items() if task.result() is None],
            elsewhere=len(everywhere) - len(local),
            is_online=details.online is not False,
        )

    async def _named(self, space: str) -> Space | None:
        """None where there is no name to be had now: one space of many does not take the others away."""
        async with self._at_once:
            try:
                return Space(space, (await self._ask(_Space, f"/user/spaces/{space}")).name)
            except (_NotAnswered, _Refused) as error:
                self._log.warning("Onezone at %s did not name a space: %s", self._url, error)
                return None

    async def _provider_id(self, providers: Sequence[str]) -> str:
        """Whom the configured host belongs to: it says so itself; or Onezone does, where it is silent."""
        key = (self._url, self._provider)
        if key not in self._known_providers:
            try:
                url = f"{self._url.partition('://')[0]}://{self._provider}/api/v3/oneprovider/configuration"
                found = (await self._send(_Configuration, "GET", url)).provider_id
            except (_NotAnswered, _Refused) as error:
                self._log.warning("The Oneprovider %s does not say who it is: %s", self._provider, error)
                for found in providers[:MOST_PROVIDERS]:
                    if (await self._ask(_Provider, f"/user/effective_providers/{found}")).domain == self._provider:
                        break
                else:
                    raise _NotAnswered(f"nobody says which provider {self._provider} is") from error
            self._known_providers[key] = found
        return self._known_providers[key]

    async def _new_token(self, caveats: Sequence[Mapping[str, Any]], seconds: float) -> TemporaryToken:
        await self._ask(_Answered, "/user")  # tells the time that Onezone has, and whether it knows the person
        expires_at = time.time() + seconds
        body = {
            "type": {"accessToken": {}},
            # By Onezone's own clock: it is the one that looks.
            "caveats": [{"type": "time", "validUntil": int(expires_at + self._ahead)}, *caveats],
        }
        given = await self._ask(_TemporaryToken, "/user/tokens/temporary", body)
        return TemporaryToken(given.token, expires_at)

    # how it is asked

    async def _ask(self, answer: type[_Answer], path: str, body: Mapping[str, Any] | None = None) -> _Answer:
        """Onezone, as the person."""
        url = f"{self._url}/api/v3/onezone{path}"
        method = "GET" if body is None else "POST"
        return await self._send(answer, method, url, {"X-Auth-Token": f"egi:{self._token}"}, body)

    async def _send(
        self,
        answer: type[_Answer],
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> _Answer:
        """Raises `_NotAnswered` or `_Refused`. Asking for a token again gives another one, and the first expires by itself."""
        async for attempt in stamina.retry_context(
            on=_NotAnswered, attempts=_ATTEMPTS, wait_initial=0.2, wait_jitter=0.2, timeout=None
        ):
            with attempt:
                content = await self._once(method, url, headers, body)
                try:
                    return answer.model_validate_json(content)
                except ValidationError as error:
                    # Not the error itself, which quotes what it found.
                    raise _NotAnswered(f"{url} answered something else ({error.error_count()} faults)") from None
        raise AssertionError("stamina ends with a result or an error")

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> bytes:
        try:
            # httpx limits the wait for each piece, and pieces may come for ever.
            async with (
                asyncio.timeout(self._limits.request),
                self._http.stream(method, url, headers=dict(headers or {}), json=body) as response,
            ):
                self._note_time(response.headers.get("Date"))
                if response.status_code in {200, 201}:
                    return await _limited(response)
                if response.is_redirect or response.status_code == 429 or response.is_server_error:
                    raise _NotAnswered(f"{url} answered {response.status_code}")
                raise _Refused(response.status_code)
        except (httpx.TransportError, TimeoutError) as error:
            raise _NotAnswered(f"{url}: {type(error).__name__}") from error

    def _note_time(self, date: str | None) -> None:
        if not date:
            return
        try:
            self._ahead = parsedate_to_datetime(date).timestamp() - time.time()
        except ValueError:
            return


class _Answered(BaseModel):
    """Any object."""


async def _limited(response: httpx.Response) -> bytes:
    content = b""
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MOST_BYTES:
            raise _NotAnswered(f"{response.url} answered more than {MOST_BYTES} bytes")
    return content
