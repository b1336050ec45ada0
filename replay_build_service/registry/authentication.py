"""Who asks the registry, and how it is told: nobody, basic authentication, or bearer tokens.

The registry says which with ``WWW-Authenticate`` (RFC 9110, 11.6.1). A bearer token comes from the address that it names
there, the realm (https://distribution.github.io/distribution/spec/auth/token/). That address is a stranger's word, and
the account's password goes to it: so it has to be encrypted, or be as unencrypted and as near as the registry itself.

Tokens are kept in memory, per scope, until shortly before they end. This room asks for nothing but tokens.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Generic, TypeAlias, TypeVar

import httpx
from cachetools import TLRUCache
from pydantic import BaseModel, ConfigDict, StringConstraints

from replay_build_service.registry.documents import read
from replay_build_service.registry.exchange import (
    Answer,
    leads_somewhere,
    not_allowed,
    send,
    unexpected,
    without_faults,
)
from replay_build_service.registry.faults import RegistryFault, misunderstood
from replay_build_service.registry.settings import RegistrySettings

TOKEN_LIMIT = 2**20
"""Bytes of a token server's answer."""
LONGEST_TOKEN = 32 * 1024
"""Characters; servers take no longer header."""
MAX_TOKENS = 1000
USUAL_LIFE = 60.0
"""Seconds that a token lives if its server does not say (token specification, “expires_in”)."""
LONGEST_LIFE = 3600.0
"""Seconds for which a token is kept, whatever its server says."""
MARGIN = 10.0
"""Seconds before its end at which a token is no longer used; a tenth of its life where that is less."""
LONGEST_CHALLENGE = 8192


# ---- what the registry asks for


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers."""

    scheme: str
    """In lower case."""
    parameters: Mapping[str, str]
    """Names in lower case; of a name that is there twice the first."""


_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  RFC 9110's word for a word
_SEPARATORS = " \t,"
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))(?=[ \t,]|\Z)')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|\Z)))?(?=[ \t,]|\Z)")


def parse_challenges(headers: Sequence[str]) -> tuple[Challenge, ...]:
    """All that a server offers, in its order (RFC 9110, 11.2 and 11.6.1), over one header or several.

    A quoted value may hold commas and escaped quotes. Raises `PassingFault` for what is no such header.
    """
    text = ", ".join(headers)
    if len(text) > LONGEST_CHALLENGE:
        raise misunderstood("a challenge too long")
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        if text[at] in _SEPARATORS:
            at += 1
        elif found and (parameter := _PARAMETER.match(text, at)):
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
            at = parameter.end()
        elif scheme := _SCHEME.match(text, at):
            found.append((scheme[1].lower(), {}))
            at = scheme.end()
        else:
            raise misunderstood("a challenge that cannot be read")
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


@dataclass(frozen=True, slots=True)
class _Open:
    """The registry did not ask who we are."""


@dataclass(frozen=True, slots=True)
class _Basic:
    pass


@dataclass(frozen=True, slots=True)
class _Bearer:
    realm: str
    service: str | None


_Method: TypeAlias = _Open | _Basic | _Bearer


def _method_of(challenges: Sequence[Challenge], settings: RegistrySettings) -> _Basic | _Bearer:
    """Tokens rather than the password, where the registry leaves the choice. Raises `RegistryFault`."""
    offered = {challenge.scheme: challenge.parameters for challenge in challenges}
    if (parameters := offered.get("bearer")) is not None:
        realm = parameters.get("realm", "")
        if not is_trusted_realm(realm, settings):
            raise RegistryFault(
                "The image registry wants Replay to log in at an address that Replay does not trust with its account. "
                "An administrator of this hub has to look at the registry's settings.",
                "realm",
            )
        return _Bearer(realm, parameters.get("service"))
    if "basic" in offered:
        return _Basic()
    raise RegistryFault(
        "The image registry asks who Replay is in a way that Replay does not know. "
        "An administrator of this hub has to look at the registry's settings.",
        "challenge",
    )


def is_trusted_realm(realm: str, settings: RegistrySettings) -> bool:
    """Whether tokens may be asked for there, with the account's password.

    HTTPS anywhere: the registry that was configured says so. HTTP only where the registry is asked over HTTP itself, and
    then on its own host or on this machine.
    """
    try:
        url = httpx.URL(realm)
    except httpx.InvalidURL:
        return False
    if not leads_somewhere(url) or url.fragment:
        return False
    if url.scheme == "https":
        return True
    return not settings.is_encrypted and (url.host.lower() == settings.name or _is_loopback(url.host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# ---- one request for all who need the same

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _SingleFlight(Generic[_Key, _Value]):
    """The first to come asks, and those who come meanwhile share the outcome; if the first leaves, the next one asks.

    No task of its own, so none that would need an owner.
    """

    def __init__(self) -> None:
        self._flights: dict[_Key, asyncio.Future[_Value | RegistryFault | None]] = {}

    async def get(self, key: _Key, ask: Callable[[], Awaitable[_Value]]) -> _Value:
        """Raises what asking raised."""
        while (flight := self._flights.get(key)) is not None:
            outcome = await asyncio.shield(flight)
            if isinstance(outcome, RegistryFault):
                raise outcome.with_traceback(None)
            if outcome is not None:
                return outcome
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        outcome = None
        try:
            value = outcome = await ask()
        except RegistryFault as error:
            outcome = error
            raise
        finally:
            del self._flights[key]
            flight.set_result(outcome)
        return value


# ---- the account


@dataclass(frozen=True, slots=True)
class Authorization:
    """What one request is sent with."""

    header: str = field(repr=False)
    is_new: bool
    """Made for this very request: asking for another would not help."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    until: float
    """On the clock of `Authority`."""


class _TokenModel(BaseModel):
    """Visible ASCII, so that no line can end in the header that the token goes into (RFC 6750, 2.1 allows less still)."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    token: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=LONGEST_TOKEN)] | None = None
    access_token: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=LONGEST_TOKEN)] | None = None
    expires_in: float | None = None


class Authority:
    """Knows how the registry wants to be asked, and has the tokens for it.

    ``scope`` is the token specification's, such as ``repository:name:pull``; empty for none. ``clock`` counts seconds.
    """

    def __init__(self, settings: RegistrySettings, client: httpx.AsyncClient, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._method: _Method | None = None
        self._tokens: TLRUCache[tuple[_Bearer, str], _Token] = TLRUCache(MAX_TOKENS, _end_of_token, clock)
        self._learning: _SingleFlight[None, _Method] = _SingleFlight()
        self._fetching: _SingleFlight[tuple[_Bearer, str], _Token] = _SingleFlight()

    async def authorization(self, scope: str) -> Authorization | None:
        """What to send with a request, before the registry has asked for anything; ``None`` for nothing.

        Raises `RegistryFault`.
        """
        if self._method is None and self._settings.username is not None:
            # A registry may hide from a stranger what it would show to us, with a 404 that means nothing. So the account
            # is never left out because nobody asked for it: GET /v2/ finds out (end-1, “Determining support”).
            self._method = await self._learning.get(None, self._learn)
        match self._method:
            case None | _Open():
                return None
            case _Basic():
                return self._basic()
            case _Bearer() as method:
                return await self._bearer(method, scope)

    async def renewed(self, answer: Answer, scope: str, used: Authorization | None) -> Authorization:
        """What to send after a 401. Raises `RegistryFault` where nothing else could help."""
        challenges = parse_challenges(answer.challenges)
        method = _method_of(challenges, self._settings)
        known, self._method = self._method, method
        if used is not None and method == known:
            if used.is_new:
                raise self.refusal(answer, scope, used)
            self._forget(method, scope, used)
        return self._basic() if isinstance(method, _Basic) else await self._bearer(method, scope)

    def refusal(self, answer: Answer, scope: str, used: Authorization) -> RegistryFault:
        """The fault for a 401 that is the last word, and the end of the token that it came for."""
        if self._method is not None:
            self._forget(self._method, scope, used)
        if any(challenge.parameters.get("error") == "insufficient_scope" for challenge in _read_if_possible(answer)):
            return not_allowed("401, insufficient_scope")
        return _refused()

    def _forget(self, method: _Method, scope: str, used: Authorization) -> None:
        if isinstance(method, _Bearer):
            kept = self._tokens.get((method, scope))
            # Meanwhile another request may have fetched a better one.
            if kept is not None and f"Bearer {kept.text}" == used.header:
                del self._tokens[method, scope]

    async def _learn(self) -> _Method:
        answer = await send(
            self._client, self._client.build_request("GET", f"{self._settings.base_url}/v2/"), limit=TOKEN_LIMIT
        )
        if answer.status == 401:
            return _method_of(parse_challenges(answer.challenges), self._settings)
        if without_faults(answer).status != 200:
            raise unexpected(answer)
        return _Open()

    def _basic(self) -> Authorization:
        if self._settings.username is None:
            raise _no_account()
        return Authorization(self._password_header(), is_new=True)

    def _password_header(self) -> str:
        pair = f"{self._settings.username}:{self._settings.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"

    async def _bearer(self, method: _Bearer, scope: str) -> Authorization:
        kept = self._tokens.get((method, scope))
        if kept is not None:
            return Authorization(f"Bearer {kept.text}", is_new=False)
        token = await self._fetching.get((method, scope), lambda: self._fetch(method, scope))
        return Authorization(f"Bearer {token.text}", is_new=True)

    async def _fetch(self, method: _Bearer, scope: str) -> _Token:
        try:
            token = await self._ask_for_token(method, scope)
        except RegistryFault:
            # The realm may have moved: the next attempt asks the registry anew.
            self._method = None
            raise
        self._tokens[method, scope] = token  # not kept at all, where it has ended already
        return token

    async def _ask_for_token(self, method: _Bearer, scope: str) -> _Token:
        asked_at = self._clock()
        url = httpx.URL(method.realm)
        for name, value in (("service", method.service), ("scope", scope)):
            if value:
                url = url.copy_set_param(name, value)
        headers = {} if self._settings.username is None else {"Authorization": self._password_header()}
        answer = await send(self._client, self._client.build_request("GET", url, headers=headers), limit=TOKEN_LIMIT)
        if answer.status == 401:
            raise _no_account() if self._settings.username is None else _refused()
        if without_faults(answer).status != 200:
            raise unexpected(answer)
        model = read(_TokenModel, answer.body)
        text = model.token or model.access_token
        if not text:
            raise misunderstood("no token")
        life = max(0.0, min(USUAL_LIFE if model.expires_in is None else model.expires_in, LONGEST_LIFE))
        return _Token(text, asked_at + life - min(MARGIN, life / 10))


def _end_of_token(_key: object, token: _Token, _now: float) -> float:
    return token.until


def _read_if_possible(answer: Answer) -> tuple[Challenge, ...]:
    try:
        return parse_challenges(answer.challenges)
    except RegistryFault:
        return ()


def _refused() -> RegistryFault:
    return RegistryFault(
        "The image registry refused Replay's credentials. An administrator of this hub has to look at them.", "401"
    )


def _no_account() -> RegistryFault:
    return RegistryFault(
        "The image registry wants to know who asks, and Replay has no account there. "
        "An administrator of this hub has to give it one.",
        "401",
    )
