"""A login that is renewed with its refresh token: by one at a time, and kept before anything else can fail.

A provider that rotates refresh tokens takes each of them once, and ends the login of one that comes twice. Two processes with
one database (a hub and its successor at a restart) must not use the same one, so who is about to writes a claim first.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from logging import Logger
from typing import Any, Protocol, cast

from tornado.httpclient import HTTPClientError

from replay_auth.errors import ProviderFault, Told, was_answered
from replay_auth.notes import KEY, Claim, Notes
from replay_auth.stored import AuthStates, Change, HubUser, Stored

CLAIM_SECONDS = 30.0
"""Longer than a request to the token endpoint takes at most. Who finds an older claim takes its owner for dead."""
CLAIM_POLL_SECONDS = 0.2

LOGIN = frozenset({"access_token", "refresh_token", "id_token", "scope", "token_response", KEY})
"""What in an auth state is the login's: changed by a login or by a renewal, and by nothing else."""


class Superseded(Exception):
    """The stored state is another's by now: a login, or another process. All has to be looked at again."""


class Renewal(StrEnum):
    """What came of it."""

    NOT_TRIED = "not tried"
    DONE = "done"
    REFUSED = "refused"
    """There is no refresh token, or the provider takes it no more."""
    FAULT = "fault"


class RenewingProvider(Protocol):
    """What is asked; each raises `ProviderFault` where it cannot be, and `HTTPClientError` where the provider refused."""

    log: Logger | Any

    async def renewed_tokens(self, refresh_token: str) -> dict[str, Any]:
        """The answer of the token endpoint, before anything in it is looked at but that there is an access token."""
        ...

    async def verify_renewed(self, tokens: Mapping[str, Any]) -> None:
        """Raises `LoginRefused` for an ID token that is not the provider's."""
        ...


class Renewer:
    """Of one process: its name is in the claims that it makes. Callers ask for one person once at a time."""

    def __init__(self, provider: RenewingProvider, states: AuthStates, *, now: Callable[[], float]) -> None:
        self._provider = provider
        self._states = states
        self._now = now
        self._process = secrets.token_hex(8)

    async def renew(self, user: HubUser, stored: Stored) -> tuple[Stored, Renewal]:
        """A new access token, if the provider gives one; with the state as it is then. Raises `Superseded`."""
        refresh_token = stored.text("refresh_token")
        if not refresh_token:
            return stored, Renewal.REFUSED
        stored = await self._claimed(user, stored, refresh_token)
        asked_at = self._now()
        try:
            tokens = await self._provider.renewed_tokens(refresh_token)
        except HTTPClientError as error:
            is_refusal = error.code in {400, 401} and oauth_error(error) == "invalid_grant"
            self._provider.log.info("The login of %s was not renewed (%s)", user.name, error.code)
            stored = await self._released(user, stored, refresh_token, was_answered=True)
            return stored, Renewal.REFUSED if is_refusal else Renewal.FAULT
        except ProviderFault as fault:
            stored = await self._released(user, stored, refresh_token, was_answered=was_answered(fault.__cause__))
            return stored, Renewal.FAULT
        # Before anything else: the old refresh token may be worth nothing any more.
        stored = await keep(
            self._states, user, stored, lambda state: with_tokens(state, refresh_token, tokens, asked_at)
        )
        return await self._verified(user, stored, tokens)

    async def another(
        self, user: HubUser, stored: Stored, ask: Callable[[str], Awaitable[dict[str, Any]]]
    ) -> tuple[Stored, dict[str, Any]]:
        """What ``ask`` gets for the login's refresh token, beside the login: of it only the refresh token is kept.

        The login's own access token stays, with what is noted of it. Raises `Superseded`, `ProviderFault`,
        `HTTPClientError` where the provider refused.
        """
        refresh_token = stored.text("refresh_token")
        stored = await self._claimed(user, stored, refresh_token)
        try:
            tokens = await ask(refresh_token)
        except HTTPClientError:
            await self._released(user, stored, refresh_token, was_answered=True)
            raise
        except ProviderFault as fault:
            await self._released(user, stored, refresh_token, was_answered=was_answered(fault.__cause__))
            raise
        # Before anything else, as above.
        stored = await keep(self._states, user, stored, lambda state: with_refresh_token(state, refresh_token, tokens))
        return stored, tokens

    async def _verified(self, user: HubUser, stored: Stored, tokens: dict[str, Any]) -> tuple[Stored, Renewal]:
        try:
            await self._provider.verify_renewed(tokens)
        except (Told, HTTPClientError) as error:
            self._provider.log.error("The renewed login of %s cannot be believed: %s", user.name, error)
            return stored, Renewal.FAULT
        if id_token := tokens.get("id_token"):
            access_token = str(tokens["access_token"])
            stored = await keep(self._states, user, stored, lambda state: with_id_token(state, access_token, id_token))
        return stored, Renewal.DONE

    async def _claimed(self, user: HubUser, stored: Stored, refresh_token: str) -> Stored:
        """Ours to use; waits for whoever else is using it. Raises `Superseded` where they have done so."""
        claim = stored.notes.claim
        while claim and claim.by != self._process and claim.until > self._now():
            await asyncio.sleep(CLAIM_POLL_SECONDS)
            stored = await self._states.read(user)
            if stored.notes.claim != claim:
                raise Superseded
        # One that is left over is of a process that ended meanwhile, or of a request that was given up: what the provider
        # answered to it, nobody knows.
        was_left_over = claim is not None
        ours = Claim(self._process, self._now() + CLAIM_SECONDS)

        def take(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
            notes = Notes.of(state)
            if state.get("refresh_token") != refresh_token or notes.claim != claim:
                return None
            return replace(notes, claim=ours, may_have_ended=notes.may_have_ended or was_left_over).into(state)

        return await keep(self._states, user, stored, take)

    async def _released(self, user: HubUser, stored: Stored, refresh_token: str, *, was_answered: bool) -> Stored:
        def release(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if state.get("refresh_token") != refresh_token:
                return None
            notes = Notes.of(state)
            return replace(notes, claim=None, may_have_ended=notes.may_have_ended or not was_answered).into(state)

        return await keep(self._states, user, stored, release)


async def keep(states: AuthStates, user: HubUser, stored: Stored, change: Change) -> Stored:
    """Raises `Superseded` where the change does not apply any more."""
    changed = await states.change(user, stored, change)
    if changed is None:
        raise Superseded
    return changed


def tokens_in(state: Mapping[str, Any]) -> dict[str, Any]:
    """The token response that an auth state stands for, as oauthenticator passes it on."""
    response = state.get("token_response")
    kept = cast("dict[str, Any]", response) if isinstance(response, dict) else {}
    named = {name: state.get(name) for name in ("access_token", "refresh_token", "id_token")}
    return {"token_type": "Bearer", **kept, **named}


def with_tokens(state: Mapping[str, Any], used: str, tokens: Mapping[str, Any], now: float) -> Mapping[str, Any] | None:
    """A state with what a refresh token gave; None where it has become another login's."""
    if state.get("refresh_token") != used:
        return None
    # A provider that does not rotate leaves the refresh token out. The ID token waits until it is verified.
    new = {"access_token": tokens["access_token"], "refresh_token": tokens.get("refresh_token") or used}
    response = {**tokens_in(state), **tokens, **new, "id_token": state.get("id_token")}
    scope = tokens.get("scope")
    told = {"scope": scope.split(" ")} if isinstance(scope, str) else {}
    return Notes.of(state).renewed(tokens, now).into({**state, **new, **told, "token_response": response})


def with_refresh_token(state: Mapping[str, Any], used: str, tokens: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A state with nothing but the refresh token that using one gave; None where it has become another login's."""
    if state.get("refresh_token") != used:
        return None
    new = tokens.get("refresh_token") or used
    response = {**tokens_in(state), "refresh_token": new}
    notes = replace(Notes.of(state), claim=None)
    return notes.into({**state, "refresh_token": new, "token_response": response})


def with_id_token(state: Mapping[str, Any], access_token: str, id_token: object) -> Mapping[str, Any] | None:
    """A state with the ID token that came with an access token."""
    if state.get("access_token") != access_token:
        return None
    return {**state, "id_token": id_token, "token_response": {**tokens_in(state), "id_token": id_token}}


def oauth_error(error: HTTPClientError) -> str:
    """The code of a refusal (RFC 6749, 5.2); empty where the answer is none."""
    try:
        said: object = json.loads(error.response.body) if error.response else None
    except ValueError:
        return ""
    return str(cast("dict[str, object]", said).get("error", "")) if isinstance(said, dict) else ""
