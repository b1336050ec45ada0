"""Where a session gets an access token of its own from: obtained beside the login, which goes on as it was.

By token exchange (RFC 8693), or by a refresh that asks for less (RFC 6749, 6). Either is asked for one person once at a time,
with what is stored of them as it is then: nobody whose membership is lost or in doubt gets a token. No token is written
anywhere here, neither into a log nor into an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from logging import Logger
from typing import Any, Protocol, cast

from sqlalchemy.exc import SQLAlchemyError
from tornado.httpclient import HTTPClientError

from replay_auth.errors import ProviderFault
from replay_auth.notes import Cause, Logout
from replay_auth.refreshing import Refresher
from replay_auth.renewing import Renewal, Superseded, oauth_error
from replay_auth.scripts import KEY as SCRIPT
from replay_auth.stored import AuthStates, HubUser, Stored
from replay_auth.token_answers import ASSUMED_SECONDS, SessionToken, UnusableToken, lifetime, session_token

AT_ONCE = 10
"""So many sessions' tokens are asked for or given back at the same time: a hub that starts with many takes nobody's place."""
EXCHANGE_AGAIN_SECONDS = 3600.0
"""A provider that lists token exchange and refuses it to this hub is asked for it again after that."""
END_SECONDS = 30.0
"""No longer does the end of a session wait for its token."""
_MOST_TRIES = 5

_STALE = frozenset({"invalid_grant", "invalid_token", "invalid_request"})
"""How providers refuse a login's token that is worth nothing any more (RFC 8693, 2.2.2, has the last)."""
_FAULTS = frozenset({"", "server_error", "temporarily_unavailable"})
"""What is no refusal; the first is an answer that is not OAuth's, as of something in between."""


class SessionTokenUnavailable(Exception):
    """A session gets no token now. The text is a sentence for the person.

    ``is_final``: trying again does not help, as the person has to log in first, or an administrator has to do something.
    Otherwise it is a fault.
    """

    def __init__(self, sentence: str, *, is_final: bool) -> None:
        super().__init__(sentence)
        self.is_final = is_final


class Way(StrEnum):
    """How a session's token is obtained."""

    AUTO = "auto"
    EXCHANGE = "exchange"
    REFRESH = "refresh"


@dataclass(frozen=True, slots=True)
class _Answer:
    stored: Stored
    tokens: Mapping[str, Any]
    asked_at: float


class TokenProvider(Protocol):
    """What is asked; each raises `ProviderFault` where it cannot be, and `HTTPClientError` where the provider refused."""

    log: Logger | Any
    login_service: str
    session_token_by: str
    session_token_scopes: list[str]
    session_token_audience: str
    revoke_session_tokens: bool
    revocation_url: str
    exempt_admins: bool
    membership_seconds: float
    refresher: Refresher

    def permitted_vos_of(self, auth_state: Mapping[str, object] | None) -> list[str]: ...
    async def know_endpoints(self) -> None: ...
    async def lists_token_exchange(self) -> bool: ...
    async def exchanged_tokens(self, access_token: str, scopes: Sequence[str], audience: str) -> dict[str, Any]: ...
    async def narrowed_tokens(self, refresh_token: str, scopes: Sequence[str]) -> dict[str, Any]: ...
    async def revoke(self, token: str, kind: str) -> None: ...


class SessionTokenSource:
    """Obtains tokens for the sessions of one hub's people, and gives them back."""

    def __init__(self, provider: TokenProvider, states: AuthStates) -> None:
        self._provider = provider
        self._states = states
        self._places = asyncio.Semaphore(AT_ONCE)
        self._exchange_again_at = 0.0
        self._told_of_no_lifetime = False

    async def obtained(self, user: HubUser) -> SessionToken:
        """Another access token for one session of a person's. Nothing of the login changes by it but its refresh token.

        Raises `SessionTokenUnavailable`, and what the database raises.
        """
        await self._look_if_long_ago(user)
        async with self._provider.refresher.alone_with(user):
            for _ in range(_MOST_TRIES):
                stored = await self._states.read(user)
                self._refuse_unless_member(user, stored)
                try:
                    return await self._obtained(user, stored)
                except Superseded:
                    continue
        raise SessionTokenUnavailable(
            "Your login changed while an access token was asked for, so there is none yet. It is tried again.",
            is_final=False,
        )

    async def end(self, user: HubUser, value: str) -> None:
        """Give a token back, where that ends nothing else; raises nothing."""
        try:
            async with asyncio.timeout(END_SECONDS):
                stored = await self._states.read(user)
                if value and value not in _others(stored):
                    await self._give_back(user, value)
        except Exception as error:  # noqa: BLE001 - a session ends, whatever becomes of its token; that expires by itself
            if isinstance(error, SQLAlchemyError):
                user.db.rollback()
            # Without the person's name, which may be what cannot be read.
            self._provider.log.warning("The token of a session was not given back: %s", type(error).__name__)

    # Who gets one

    async def _look_if_long_ago(self, user: HubUser) -> None:
        stored = await self._states.read(user)
        age = time.time() - stored.notes.answered_at
        if stored.state is not None and not 0 <= age <= self._provider.membership_seconds:
            # As after a hub's start. What it finds is stored.
            await self._provider.refresher.refresh(user)

    def _refuse_unless_member(self, user: HubUser, stored: Stored) -> None:
        """Raises `SessionTokenUnavailable`."""
        notes = stored.notes
        if stored.state is None or notes.logout is Logout.DONE:
            raise self._login_needed()
        is_exempt = self._provider.exempt_admins and user.admin
        if notes.is_lost or not (is_exempt or self._provider.permitted_vos_of(stored.state)):
            raise SessionTokenUnavailable(
                "You are in none of the VOs that may use this hub, so your session gets no access token.", is_final=True
            )
        if notes.doubt and notes.doubt.cause is Cause.LOGIN_NEEDED:
            raise self._login_needed()
        if notes.doubt:
            raise self._fault("This hub cannot look up whether you are still a member of a VO that may use it")

    # Asking

    async def _obtained(self, user: HubUser, stored: Stored) -> SessionToken:
        """Raises `SessionTokenUnavailable`, `Superseded`."""
        try:
            async with self._places:
                answer = await self._answer(user, stored)
        except ProviderFault:
            # Without its cause, in which there may be what the provider sent.
            raise self._fault(f"{self._provider.login_service} does not answer") from None
        others = _others(answer.stored)
        try:
            token = session_token(
                answer.tokens, asked=self._provider.session_token_scopes, asked_at=answer.asked_at, others=others
            )
        except UnusableToken as unusable:
            raise await self._unusable(user, answer, unusable) from None
        if lifetime(answer.tokens) is None and not self._told_of_no_lifetime:
            self._told_of_no_lifetime = True
            self._provider.log.warning(
                "%s does not say for how long sessions' tokens are good; %.0f s are assumed",
                self._provider.login_service,
                ASSUMED_SECONDS,
            )
        return token

    async def _answer(self, user: HubUser, stored: Stored) -> _Answer:
        """Raises `SessionTokenUnavailable`, `Superseded`, `ProviderFault`."""
        if not await self._is_by_exchange():
            return await self._refreshed(user, stored)
        try:
            return await self._exchanged(user, stored)
        except HTTPClientError as error:
            code = oauth_error(error)
            if (
                code in _FAULTS
                or self._provider.session_token_by == Way.EXCHANGE
                or self._provider.session_token_audience
            ):
                raise self._refused(error, "allow token exchange to it") from None
            self._exchange_again_at = time.monotonic() + EXCHANGE_AGAIN_SECONDS
            self._provider.log.warning(
                "%s lists token exchange and refuses it to this hub (%s): sessions' tokens come by refreshes",
                self._provider.login_service,
                code,
            )
            raise Superseded from None  # a login that was renewed meanwhile is read again

    async def _is_by_exchange(self) -> bool:
        """Raises `ProviderFault`."""
        if self._provider.session_token_by != Way.AUTO:
            return self._provider.session_token_by == Way.EXCHANGE
        if self._provider.session_token_audience:
            return True
        return time.monotonic() >= self._exchange_again_at and await self._provider.lists_token_exchange()

    async def _exchanged(self, user: HubUser, stored: Stored) -> _Answer:
        """By the login's access token, renewed first where it has to be. Raises as `_answer`, `HTTPClientError`."""
        renewal = Renewal.NOT_TRIED
        if stored.notes.is_due(time.time()):
            stored, renewal = await self._renewed(user, stored)
        if not stored.text("access_token") or stored.notes.has_expired(time.time()):
            raise self._login_needed()
        try:
            return await self._exchange(stored)
        except HTTPClientError as error:
            if renewal is not Renewal.NOT_TRIED or oauth_error(error) not in _STALE:
                raise
        stored, renewal = await self._renewed(user, stored)
        if renewal is not Renewal.DONE:
            raise self._login_needed()
        return await self._exchange(stored)

    async def _exchange(self, stored: Stored) -> _Answer:
        asked_at = time.time()
        access_token = stored.text("access_token")
        tokens = await self._provider.exchanged_tokens(
            access_token, self._provider.session_token_scopes, self._provider.session_token_audience
        )
        return _Answer(stored, tokens, asked_at)

    async def _renewed(self, user: HubUser, stored: Stored) -> tuple[Stored, Renewal]:
        stored, renewal = await self._provider.refresher.renewer.renew(user, stored)
        if renewal is Renewal.FAULT:
            raise self._fault(f"{self._provider.login_service} does not renew your login at the moment")
        return stored, renewal

    async def _refreshed(self, user: HubUser, stored: Stored) -> _Answer:
        """By the login's refresh token. Raises `SessionTokenUnavailable`, `Superseded`, `ProviderFault`."""
        if not stored.text("refresh_token"):
            raise self._login_needed()
        asked_at = 0.0

        async def ask(refresh_token: str) -> dict[str, Any]:
            nonlocal asked_at
            asked_at = time.time()
            return await self._provider.narrowed_tokens(refresh_token, self._provider.session_token_scopes)

        try:
            stored, tokens = await self._provider.refresher.renewer.another(user, stored, ask)
        except HTTPClientError as error:
            if oauth_error(error) == "invalid_grant":
                raise self._login_needed() from None
            raise self._refused(error, "let it refresh tokens with the scopes in session_token_scopes") from None
        return _Answer(stored, tokens, asked_at)

    # Giving back

    async def _unusable(self, user: HubUser, answer: _Answer, unusable: UnusableToken) -> SessionTokenUnavailable:
        """Give a token back that was not handed on; what its person is told."""
        self._provider.log.error(
            "%s gave a token for a session that is not handed on: %s", self._provider.login_service, unusable
        )
        value = answer.tokens.get("access_token")
        if isinstance(value, str) and value and value not in _others(answer.stored):
            await self._give_back(user, value)
        sentence = f"The access token that {self._provider.login_service} gave for your session is not handed on, because {unusable}. "
        if unusable.is_final:
            return SessionTokenUnavailable(
                f"{sentence}The administrators of this hub have to look into it.", is_final=True
            )
        return SessionTokenUnavailable(f"{sentence}It is tried again.", is_final=False)

    async def _give_back(self, user: HubUser, value: str) -> None:
        if not self._provider.revoke_session_tokens:
            return
        try:
            await self._provider.know_endpoints()
            if not self._provider.revocation_url:
                return
            async with self._places:
                await self._provider.revoke(value, "access_token")
        except (ProviderFault, HTTPClientError) as error:
            self._provider.log.warning("The token of a session of %s was not given back: %s", user.name, error)
        else:
            self._provider.log.info("Gave the token of a session of %s back", user.name)

    # What the person is told

    def _refused(self, error: HTTPClientError, remedy: str) -> SessionTokenUnavailable:
        code = oauth_error(error)[:60]
        if code in _FAULTS:
            return self._fault(f"{self._provider.login_service} does not answer as it should ({error.code})")
        self._provider.log.error("%s refuses tokens for sessions: %s", self._provider.login_service, code)
        return SessionTokenUnavailable(
            f"{self._provider.login_service} gives this hub no access tokens for sessions ({code}). The administrators of this hub "
            f"have to see to it that {self._provider.login_service} does {remedy}.",
            is_final=True,
        )

    def _login_needed(self) -> SessionTokenUnavailable:
        return SessionTokenUnavailable(
            f"{self._provider.login_service} gives your session no access token any more until you log in again: log out of this "
            "hub, and log in.",
            is_final=True,
        )

    def _fault(self, what: str) -> SessionTokenUnavailable:
        return SessionTokenUnavailable(
            f"{what}, so your session has no new access token. It is tried again.", is_final=False
        )


def _others(stored: Stored) -> frozenset[str]:
    """Tokens that are in use for something else: the login's, and the one that a script brought."""
    script = (stored.state or {}).get(SCRIPT)
    brought: object = cast("dict[str, object]", script).get("access_token") if isinstance(script, dict) else None
    held = {stored.text(name) for name in ("access_token", "refresh_token", "id_token")} | {brought}
    return frozenset(token for token in held if isinstance(token, str) and token)
