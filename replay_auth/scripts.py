"""What a script's access token of the provider's proves: who it is, of which client, and for how long it is good.

Settings, the proof, and how often one may ask. The request and its answer are `replay_auth.script_handler`. A script's token
is kept beside a login and never in its place: neither its tokens nor what it released is touched by a script.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from logging import Logger
from math import isfinite
from typing import Any, cast

from cachetools import TTLCache
from tornado.httpclient import HTTPClientError
from traitlets import Bool, HasTraits, Integer, List, Unicode, validate

from replay_auth.errors import ProviderFault, Told, text_claim
from replay_auth.notes import Notes

KEY = "replay_script"
"""Where a script's token is in an auth state."""

AT_ONCE = 4
"""So many scripts' tokens are looked at at the same time, whoever brings them: each costs the provider a request."""
WAITING = 16
"""So many requests wait for that; the next is told to come later."""

MEMBERSHIP_CLAIMS = ("eduperson_entitlement", "entitlements")


class ScriptRefused(Told):
    """A script's token buys nothing. ``reason`` is for the log, and tells no more than the script may know."""

    def __init__(self, status: int, sentence: str, *, reason: str) -> None:
        super().__init__(status, sentence)
        self.reason = reason


class TooOften(Told):
    """Another request in ``wait`` seconds would be heard."""

    def __init__(self, wait: int) -> None:
        super().__init__(429, f"Too many requests for tokens. Try again in {wait} seconds.")
        self.headers = {"Retry-After": str(wait)}


class TooMany(Told):
    """So many scripts are being attended to that this one cannot be."""

    def __init__(self) -> None:
        super().__init__(503, "Many scripts are asking for tokens at this moment. Try again in some seconds.")
        self.headers = {"Retry-After": "5"}


class ScriptSettings(HasTraits):
    """Whether scripts may buy a token of the hub's with one of the provider's, and what it is good for."""

    script_audiences = List(
        Unicode(),
        config=True,
        help="""
        The clients whose access tokens a script may bring to ``POST /hub/replay/token``: client ids as the provider names
        them in a token's ``aud`` or, where a token has none, in its ``client_id``. Without any, there is no such address.
        """,
    )

    script_scopes = List(
        Unicode(),
        default_value=[
            "access:services!service=replay",
            "access:servers!user",
            "servers!user",
            "read:users!user",
        ],
        config=True,
        help="What a token bought by a script may do, in scopes of JupyterHub. The person has to have them, too.",
    )

    script_token_seconds = Integer(
        3600,
        min=1,
        config=True,
        help="A token bought by a script lives so long at most, and never longer than what bought it.",
    )

    scripts_may_create_users = Bool(
        False, config=True, help="Whether a script may come before its person has logged in with a browser once."
    )

    scripts_per_minute_of_address = Integer(30, min=1, config=True, help="Requests for tokens from one address.")
    scripts_per_minute_of_person = Integer(10, min=1, config=True, help="Tokens that one person's scripts may buy.")

    @validate("script_scopes")
    def _validate_scopes(self, proposal: Any) -> list[str]:
        if not proposal.value or {"inherit", "self", "all", ""} & set(proposal.value):
            raise ValueError(
                "script_scopes has to name what a script may do: “inherit”, “self” and “all” are all that its person may."
            )
        return proposal.value


@dataclass(frozen=True, slots=True)
class ScriptProof:
    """What the provider said of a script's token."""

    client: str
    model: dict[str, Any]
    """JupyterHub's auth model of its person."""
    expires_at: float
    """By the hub's clock, in seconds since the epoch."""

    def seconds_left(self) -> int:
        """How long a token may live that is made now; 0 where none may. A moment is left for making it."""
        return max(0, int(self.expires_at - time.time() - 0.2))


class ScriptTokens:
    """An authenticator's part: asks the provider about scripts' tokens. To be mixed in over `OpenIDProvider`."""

    log: Logger | Any
    issuer: str
    login_service: str
    script_audiences: list[str]
    user_auth_state_key: str
    username_claim: Any
    admin_users: set[str]

    async def script_proof(self, access_token: str) -> ScriptProof:
        """Raises `ScriptRefused`, `ProviderFault` where nothing could be asked, `Told` for claims that say too little."""
        provider: Any = self
        try:
            said: Mapping[str, Any] = await provider.introspected(access_token)
        except HTTPClientError as error:
            self.log.error("The provider does not let this hub introspect tokens: it answered %s", error.code)
            raise ProviderFault(
                f"{self.login_service} did not say what this token is good for. The administrators of this hub have to "
                "look into it."
            ) from error
        client = self._client_of(said)
        now = time.time()
        expires_at = now + seconds_left(said, now)
        if expires_at <= now:
            raise _refused("the token has expired")
        claims = await self._claims_with_memberships(access_token, said)
        name = str(provider.normalize_username(provider.user_info_to_username(claims)))
        kept = {"access_token": access_token, "expires_at": expires_at, "client": client}
        state: dict[str, Any] = {self.user_auth_state_key: claims, KEY: kept}
        state = Notes(answered_at=now).into(state)
        model: dict[str, Any] = {
            "name": name,
            "admin": True if name in self.admin_users else None,
            "auth_state": state,
            "groups": sorted(await provider.get_user_groups(state)),
        }
        return ScriptProof(client, model, expires_at)

    async def model_of_script(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """By the token that a script brought last, while it is good. Raises `ProviderFault`."""
        held = state.get(KEY)
        kept = cast("dict[str, Any]", held) if isinstance(held, dict) else {}
        token, expires_at = kept.get("access_token"), kept.get("expires_at")
        if not self.script_audiences or not token or not isinstance(expires_at, int | float):
            return None
        if time.time() >= expires_at:
            return None
        try:
            model = (await self.script_proof(str(token))).model
        except ScriptRefused:
            return None
        return {**model, "auth_state": {name: value for name, value in model["auth_state"].items() if name != KEY}}

    def _client_of(self, said: Mapping[str, Any]) -> str:
        """For which of the clients that may the token is. Raises `ScriptRefused`."""
        if said.get("active") is not True:
            raise _refused("the token is not active")
        issuer = said.get("iss")
        if issuer is not None and issuer != self.issuer:
            raise _refused("the token is of another issuer")
        for name in ("token_type", "typ"):
            if str(said.get(name) or "Bearer").lower() != "bearer":
                raise _refused("it is no access token")
        audience = said.get("aud")
        if audience is None or audience == "" or audience == []:
            audience = said.get("client_id") or said.get("azp")
        named = cast("list[object]", audience) if isinstance(audience, list) else [audience]
        for client in named:
            if isinstance(client, str) and client in self.script_audiences:
                return client
        raise _refused("the token is for another application")

    async def _claims_with_memberships(self, access_token: str, said: Mapping[str, Any]) -> dict[str, Any]:
        provider: Any = self
        claim = self.username_claim
        is_told = isinstance(claim, str) and bool(text_claim(said, claim))
        if is_told and any(name in said for name in MEMBERSHIP_CLAIMS):
            return dict(said)
        try:
            claims = await provider.token_to_user({"access_token": access_token, "token_type": "Bearer"})
        except HTTPClientError as error:
            raise _refused(f"userinfo does not take the token ({error.code})") from error
        if said.get("sub") is not None and claims.get("sub") != said.get("sub"):
            raise _refused("userinfo and introspection are about different subjects")
        return dict(claims)


def _refused(reason: str) -> ScriptRefused:
    return ScriptRefused(
        401,
        f"This access token buys nothing here: {reason}. Get a new one for an application that this hub accepts.",
        reason=reason,
    )


def seconds_left(said: Mapping[str, Any], now: float) -> float:
    """How long a token is good, by what the provider says of it; 0 where it does not say.

    Where the provider's clock is ahead, the token was issued in the future: so much of its life is not believed.
    """
    expires_at, issued_at = said.get("exp"), said.get("iat")
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or not isfinite(expires_at):
        return 0.0
    ahead = 0.0
    if isinstance(issued_at, int | float) and isfinite(issued_at):
        ahead = max(0.0, issued_at - now)
    return max(0.0, expires_at - now - ahead)


class Limit:
    """So many in a minute for each name; in memory, and of a bounded number of names."""

    def __init__(self, most: int, *, seconds: float = 60.0) -> None:
        self._most = most
        self._seconds = seconds
        self._seen: TTLCache[str, deque[float]] = TTLCache(maxsize=10_000, ttl=seconds)

    def take(self, name: str) -> None:
        """Count one. Raises `TooOften`."""
        now = time.monotonic()
        times = self._seen.get(name) or deque[float]()
        while times and times[0] <= now - self._seconds:
            times.popleft()
        if len(times) >= self._most:
            raise TooOften(max(1, round(times[0] + self._seconds - now)))
        times.append(now)
        self._seen[name] = times


class Places:
    """So many at the same time, and some who wait for that."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._left = at_once + waiting

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[None]:
        """Wait for a place, and have it. Raises `TooMany`."""
        if not self._left:
            raise TooMany
        self._left -= 1
        try:
            async with self._free:
                yield
        finally:
            self._left += 1


def asking_address(peer: str, forwarded: Iterable[str], trusted: frozenset[str]) -> str:
    """Whose requests are counted together: an address of IPv4, or a network of IPv6, of which one person has 2^64 addresses.

    ``forwarded`` has the values of X-Forwarded-For, to each of which the hub's proxy adds who connected to it. What is
    further in front counts where the next in line is one of the hub's ``trusted_downstream_ips``. No other header is believed.
    """
    found = peer
    for part in reversed(",".join(forwarded).split(",")):
        if not part.strip():
            break
        found = part.strip()
        if found not in trusted:
            break
    try:
        address = ip_address(found)
    except ValueError:
        return found[:100]
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))
