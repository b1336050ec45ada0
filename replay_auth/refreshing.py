"""Whether somebody is still a member, asked anew: with which token, and what each answer of the provider means.

Three things are told apart: the provider said that the person is no member (a loss), it could not be asked (a fault), and
it takes none of our tokens (a login is needed). The last two are a doubt, which is borne for a while.

One person is asked about once at a time, in this process by a lock and among processes by a claim in the stored state; what
is asked and decided follows the state that is read after that. Nothing here stops servers or answers requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol
from weakref import WeakValueDictionary

from tornado.httpclient import HTTPClientError

from replay_auth.errors import LoginRefused, ProviderFault, Told
from replay_auth.notes import Cause, Doubt, Notes
from replay_auth.renewing import LOGIN, Renewal, Renewer, RenewingProvider, Superseded, keep, tokens_in
from replay_auth.stored import AuthStates, HubUser, Stored, give_groups

AGAIN_SECONDS = 10.0
"""A loss or a doubt is not looked into again before that, unless the stored state is another, as after a login."""
_MOST_TRIES = 5


class Standing(StrEnum):
    """What is known about a membership."""

    MEMBER = "member"
    IN_DOUBT = "in-doubt"
    """It was proved, cannot be looked at now, and is believed for a while."""
    DOUBTED_TOO_LONG = "doubted-too-long"
    LOST = "lost"
    """The provider said so: in no permitted VO, or not known any more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one person at one time."""

    standing: Standing
    asked_at: float
    """When asking began, in seconds since the epoch."""
    based_on: bytes | None = field(repr=False)
    """The stored auth state, as it was left."""
    doubt: Doubt | None = None
    reason: str = ""
    """For the log and for administrators: what the provider said."""
    is_on_record: bool = True
    """Whether the hub has an auth state of the person that it can read."""
    until: float | None = None
    """When a doubt has lasted long enough, in seconds since the epoch."""


class MembershipProvider(RenewingProvider, Protocol):
    """What is asked; each raises `ProviderFault` where it cannot be, and `HTTPClientError` where the provider refused."""

    manage_groups: bool

    async def model_of(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """The person of an access token: JupyterHub's auth model. Raises `Told` for claims that cannot be right."""
        ...

    async def is_inactive(self, access_token: str) -> bool:
        """Whether the provider says that a token is worth nothing; False where it cannot be asked that."""
        ...

    async def may_enter(self, user: HubUser, model: dict[str, Any]) -> bool:
        """Whether somebody of whom this is known may enter."""
        ...

    async def model_of_script(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """The person of a script's token that is kept beside the login's; None where none is good any more."""
        ...


class _Rejected(Exception):
    """The access token is not accepted, or there is none that could be."""


class _Unclear(Exception):
    """The provider did not answer what was asked. The message is for the log."""


class Refresher:
    """Looks at memberships of one hub's people.

    ``grace`` is how long a doubt is borne, and ``grace_of_logout`` how old the last proof may become of who has logged out
    and whose login the provider takes for ended: nobody gains time by logging out. Both in seconds.

    ``when_ended`` is told of each loss and of each doubt that has lasted too long, in the same step of the loop in which
    that was stored: no login can come in between.
    """

    def __init__(
        self,
        provider: MembershipProvider,
        states: AuthStates,
        *,
        grace: float,
        grace_of_logout: float,
        when_ended: Callable[[HubUser, Verdict], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._provider = provider
        self._states = states
        self._grace = grace
        self._grace_of_logout = grace_of_logout
        self._when_ended = when_ended
        self._now = now
        self.renewer = Renewer(provider, states, now=now)
        """To be used `alone_with` the person."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._known: dict[str, tuple[float, Verdict]] = {}
        self._unrecorded: dict[str, Doubt] = {}

    async def refresh(self, user: HubUser) -> Verdict:
        """Ask about one person now. Whoever waited meanwhile for the same person gets the answer, too.

        Raises what the database and an administrator's hooks raise; never for what the provider does.
        """
        asked_at = self._now()
        async with self.alone_with(user):
            stored = await self._states.read(user)
            if known := self._known_of(user, stored, asked_at):
                return known
            verdict = await self._judged(user, stored)
            # No await from here on, since the verdict was stored.
            self._remember(user, verdict)
            if verdict.standing in {Standing.LOST, Standing.DOUBTED_TOO_LONG}:
                self._when_ended(user, verdict)
            return verdict

    @asynccontextmanager
    async def alone_with(self, user: HubUser) -> AsyncGenerator[None]:
        """While nobody else in this process asks the provider about this person, or uses their tokens there."""
        async with self._locks.setdefault(user.name, asyncio.Lock()):
            yield

    async def has_ended(self, user: HubUser) -> bool:
        """Whether the latest verdict ended this person's access, and nothing has changed since. Asks nobody."""
        stored = await self._states.read(user)
        known = self._known.get(user.name)
        return (
            known is not None
            and known[1].based_on == stored.encrypted
            and known[1].standing in {Standing.LOST, Standing.DOUBTED_TOO_LONG}
        )

    def _known_of(self, user: HubUser, stored: Stored, asked_at: float) -> Verdict | None:
        known = self._known.get(user.name)
        if known is None or known[1].based_on != stored.encrypted or not known[1].is_on_record:
            return None
        at, verdict = known
        is_recent = verdict.standing is not Standing.MEMBER and time.monotonic() - at < AGAIN_SECONDS
        if verdict.standing is Standing.IN_DOUBT and verdict.until is not None and verdict.until <= asked_at:
            is_recent = False
        return verdict if is_recent or verdict.asked_at >= asked_at else None

    def _remember(self, user: HubUser, verdict: Verdict) -> None:
        before = self._known.get(user.name)
        self._known[user.name] = (time.monotonic(), verdict)
        if before is None or before[1].standing is not verdict.standing:
            self._tell(user, verdict, is_first=before is None)

    def _tell(self, user: HubUser, verdict: Verdict, *, is_first: bool) -> None:
        log = self._provider.log
        match verdict.standing:
            case Standing.MEMBER if not is_first:
                log.info("The membership of %s is proved again", user.name)
            case Standing.IN_DOUBT if verdict.is_on_record:
                log.warning("The membership of %s cannot be looked at: %s", user.name, verdict.reason)
            case Standing.DOUBTED_TOO_LONG:
                log.warning("The membership of %s could not be looked at for too long: %s", user.name, verdict.reason)
            case Standing.LOST:
                log.warning("%s is a member no more: %s", user.name, verdict.reason)
            case _:
                pass

    def doubts(self) -> dict[str, Verdict]:
        """Whose memberships cannot be looked at, by name, with the latest that is known of each."""
        in_doubt = {Standing.IN_DOUBT, Standing.DOUBTED_TOO_LONG}
        return {name: verdict for name, (_, verdict) in self._known.items() if verdict.standing in in_doubt}

    def forget_all_but(self, names: set[str]) -> None:
        """What was known of people who have nothing at this hub any more; keeps memory bounded."""
        for kept in (self._known, self._unrecorded):
            for name in kept.keys() - names:
                del kept[name]

    async def logged_out(self, user: HubUser, *, is_all_gone: bool, ends_at_provider: bool) -> None:
        """Note that a person logged out: the hub gives the login's tokens back now, or once all is gone that they left.

        ``ends_at_provider``: the login ends there, too. That tokens are worth nothing is no loss then.
        """

        def note(state: Mapping[str, Any]) -> Mapping[str, Any]:
            return Notes.of(state).logged_out(is_all_gone=is_all_gone, ends_at_provider=ends_at_provider).into(state)

        await self._states.change(user, await self._states.read(user), note)

    # The questions, in order

    async def _judged(self, user: HubUser, stored: Stored) -> Verdict:
        for _ in range(_MOST_TRIES):
            asked_at = self._now()
            if stored.state is None:
                return self._unrecorded_doubt(user, stored, asked_at)
            self._unrecorded.pop(user.name, None)
            try:
                try:
                    return await self._judged_once(user, stored, asked_at)
                except _Unclear as error:
                    stored = await self._states.read(user)
                    return await self._doubted(user, stored, Cause.FAULT, asked_at, str(error))
            except Superseded:
                stored = await self._states.read(user)
        raise RuntimeError(f"The auth state of {user.name} changes all the time.")

    async def _judged_once(self, user: HubUser, stored: Stored, asked_at: float) -> Verdict:
        renewal = Renewal.NOT_TRIED
        if stored.notes.is_due(asked_at):
            stored, renewal = await self.renewer.renew(user, stored)
        try:
            model = await self._look(stored)
        except _Rejected:
            if renewal is Renewal.NOT_TRIED:
                stored, renewal = await self.renewer.renew(user, stored)
                if renewal is Renewal.DONE:
                    return await self._judged_with_new_token(user, stored, asked_at)
            return await self._rejected(user, stored, renewal, asked_at)
        return await self._decided(user, stored, model, asked_at)

    async def _judged_with_new_token(self, user: HubUser, stored: Stored, asked_at: float) -> Verdict:
        try:
            model = await self._look(stored)
        except _Rejected:
            return await self._rejected(user, stored, Renewal.DONE, asked_at)
        return await self._decided(user, stored, model, asked_at)

    async def _look(self, stored: Stored) -> dict[str, Any]:
        """Userinfo, with the access token that there is. Raises `_Rejected`, `_Unclear`."""
        access_token = stored.text("access_token")
        if not access_token or stored.notes.has_expired(self._now()):
            raise _Rejected
        try:
            return await self._provider.model_of(tokens_in(stored.state or {}))
        except HTTPClientError as error:
            if error.code == 401:
                raise _Rejected from error
            raise _Unclear(f"userinfo was answered with {error.code}") from error
        except ProviderFault as error:
            raise _Unclear(f"the provider does not answer: {error.__cause__ or error.sentence}") from error
        except LoginRefused as error:
            raise _Unclear(error.reason) from error
        except Told as error:
            raise _Unclear(error.sentence) from error

    async def _rejected(self, user: HubUser, stored: Stored, renewal: Renewal, asked_at: float) -> Verdict:
        """No token of the login's is accepted: what that means."""
        if renewal is Renewal.DONE:
            return await self._lost(user, stored, asked_at, "a new access token is not accepted")
        if renewal is Renewal.FAULT:
            raise _Unclear("the access token could not be renewed")
        access_token = stored.text("access_token")
        if access_token and stored.notes.should_be_valid(self._now()) and await self._is_inactive(access_token):
            return await self._lost(user, stored, asked_at, "the provider does not know the login any more")
        try:
            by_script = await self._provider.model_of_script(stored.state or {})
        except (Told, HTTPClientError) as error:
            raise _Unclear(f"a script's token could not be looked at: {error}") from error
        if by_script is not None:
            return await self._decided(user, stored, by_script, asked_at)
        return await self._doubted(user, stored, Cause.LOGIN_NEEDED, asked_at, "the login has ended at the provider")

    async def _is_inactive(self, access_token: str) -> bool:
        try:
            return await self._provider.is_inactive(access_token)
        except (Told, HTTPClientError):
            return False  # a fault is no answer; that the tokens are not taken is known already

    # Verdicts, and what is kept of them

    async def _decided(self, user: HubUser, stored: Stored, model: dict[str, Any], asked_at: float) -> Verdict:
        """By what the provider says of the person."""
        if model["name"] != user.name:
            raise _Unclear("userinfo is about somebody else")
        is_member = await self._provider.may_enter(user, model)
        access_token = stored.text("access_token")
        fresh = {name: value for name, value in model["auth_state"].items() if name not in LOGIN}

        def confirm(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if (state.get("access_token") or "") != access_token:
                return None
            return Notes.of(state).answered(asked_at, is_member=is_member).into({**state, **fresh})

        stored = await keep(self._states, user, stored, confirm)
        give_groups(user, model.get("groups"), model.get("admin"))
        if is_member:
            return Verdict(Standing.MEMBER, asked_at, stored.encrypted)
        return Verdict(Standing.LOST, asked_at, stored.encrypted, reason="in none of the permitted VOs")

    async def _lost(self, user: HubUser, stored: Stored, asked_at: float, reason: str) -> Verdict:
        """The provider knows the person no more, so their groups are what is left to take."""
        access_token = stored.text("access_token")

        def lose(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if (state.get("access_token") or "") != access_token:
                return None
            return Notes.of(state).answered(asked_at, is_member=False).into(state)

        stored = await keep(self._states, user, stored, lose)
        give_groups(user, [] if self._provider.manage_groups else None, None)
        return Verdict(Standing.LOST, asked_at, stored.encrypted, reason=reason)

    async def _doubted(self, user: HubUser, stored: Stored, cause: Cause, asked_at: float, reason: str) -> Verdict:
        """Nothing was learnt. What was known before stays: somebody lost is no member by it, and a doubt goes on."""
        if stored.notes.is_lost:
            reason = "was a member no more when last asked"
            return Verdict(Standing.LOST, asked_at, stored.encrypted, reason=reason)
        if stored.notes.doubt is None or stored.notes.doubt.cause is not cause:

            def doubt(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
                notes = Notes.of(state)
                # A login meanwhile, or another process that was answered, knows better.
                return None if notes.answered_at > asked_at else notes.doubted(cause, asked_at).into(state)

            stored = await keep(self._states, user, stored, doubt)
        return self._doubt_verdict(stored, stored.notes.doubt or Doubt(asked_at, cause), asked_at, reason)

    def _unrecorded_doubt(self, user: HubUser, stored: Stored, asked_at: float) -> Verdict:
        doubt = self._unrecorded.setdefault(user.name, Doubt(asked_at, Cause.LOGIN_NEEDED))
        verdict = self._doubt_verdict(stored, doubt, asked_at, "the hub has no record of a login that it can read")
        return replace(verdict, is_on_record=False)

    def _doubt_verdict(self, stored: Stored, doubt: Doubt, asked_at: float, reason: str) -> Verdict:
        until = doubt.since + self._grace
        if doubt.cause is Cause.LOGIN_NEEDED and stored.notes.logout is not None:
            until = min(until, stored.notes.answered_at + self._grace_of_logout)
        standing = Standing.DOUBTED_TOO_LONG if self._now() >= until else Standing.IN_DOUBT
        return Verdict(standing, asked_at, stored.encrypted, doubt, reason, until=until)
