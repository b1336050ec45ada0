"""The authenticator's part in memberships after the login: refreshing, the start of a server, the watch, and scripts.

Wiring: what an answer means is `replay_auth.refreshing`, when it is asked for without a click `replay_auth.membership`, what
a script's token proves `replay_auth.scripts`. Which VOs may enter is the authenticator's own business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from tornado import web
from tornado.httpclient import AsyncHTTPClient
from traitlets import default, validate

from replay_auth.ending import ServerStopper, end_sessions
from replay_auth.errors import NotAMember, SpawnRefused
from replay_auth.holdings import has_holdings
from replay_auth.logout import give_back, knows_where_to_revoke
from replay_auth.membership import STOPS_AT_ONCE, MembershipSettings, MembershipWatch, is_over
from replay_auth.membership_page import MembershipHandler
from replay_auth.notes import KEY, Cause, Logout, Notes
from replay_auth.refreshing import Refresher, Standing, Verdict
from replay_auth.script_handler import ScriptTokenHandler
from replay_auth.scripts import AT_ONCE as SCRIPTS_AT_ONCE
from replay_auth.scripts import KEY as SCRIPT
from replay_auth.scripts import Limit, Places, ScriptProof, ScriptSettings, ScriptTokens
from replay_auth.stored import HubAuthStates, HubUser, Stored
from replay_auth.token_source import AT_ONCE as SESSIONS_AT_ONCE

_CONNECTIONS_OF_LOGINS = 20
"""To the provider at the same time: for logins, clicks and starts of servers."""


@dataclass(frozen=True, slots=True)
class ScriptLimits:
    """How often scripts may ask."""

    of_address: Limit
    of_person: Limit
    places: Places


class WatchedMemberships(MembershipSettings, ScriptSettings, ScriptTokens):
    """To be mixed in over `OpenIDProvider`, below what knows of VOs."""

    _watch: MembershipWatch | None = None

    @validate("refresh_user_hook")
    def _validate_refresh_user_hook(self, proposal: Any) -> None:
        if proposal.value is not None:
            raise ValueError(
                "refresh_user_hook would decide in place of the memberships. Remove it; modify_auth_state_hook can change "
                "what is kept of an answer."
            )

    @cached_property
    def refresher(self) -> Refresher:
        """One for all that asks about this hub's people."""
        return Refresher(
            cast("Any", self),
            HubAuthStates(),
            grace=self.membership_grace,
            grace_of_logout=self.looking_seconds,
            when_ended=self._end_access,
        )

    @cached_property
    def script_limits(self) -> ScriptLimits:
        """Counted for as long as the hub runs."""
        return ScriptLimits(
            Limit(self.scripts_per_minute_of_address), Limit(self.scripts_per_minute_of_person), Places()
        )

    @default("http_client")
    def _default_http_client(self) -> AsyncHTTPClient:
        # Neither the watch nor scripts nor sessions' tokens can use so many at a time that a login has to wait for a connection.
        connections = self.membership_concurrency + SCRIPTS_AT_ONCE + SESSIONS_AT_ONCE + _CONNECTIONS_OF_LOGINS
        return AsyncHTTPClient(force_instance=True, max_clients=connections)

    def get_handlers(self, app: Any) -> list[tuple[str, Any]]:
        """JupyterHub asks once, while it starts: so here the watch begins."""
        stopper = ServerStopper(app, at_once=STOPS_AT_ONCE)
        self._watch = MembershipWatch(
            app, self.refresher, stopper, self, self.log, when_left=self._give_back_if_logged_out
        )
        self._watch.start()
        inherited: list[tuple[str, Any]] = cast("Any", super()).get_handlers(app)
        scripts = [(r"/replay/token", ScriptTokenHandler)] if self.script_audiences else []
        return [*inherited, (r"/replay/membership", MembershipHandler), *scripts]

    # A login, and what is kept of it

    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> Any:
        """A login by the provider, or the person that a script's token has proved. Nothing in a request is such a proof."""
        if isinstance(data, ScriptProof):
            return dict(data.model)
        return await cast("Any", super()).authenticate(handler, data, **kwargs)

    def build_auth_state_dict(self, token_info: Mapping[str, Any], user_info: Mapping[str, Any]) -> dict[str, Any]:
        state = cast("Any", super()).build_auth_state_dict(token_info, user_info)
        return Notes.of_login(token_info, time.time()).into(state)

    async def keep_script(self, user: HubUser, auth_state: Mapping[str, Any]) -> bool:
        """Keep a script's token beside the login; False where there is no record of a login to keep it beside."""
        states = HubAuthStates()
        stored = await states.read(user)
        if stored.encrypted is None:
            return False
        await states.change(user, stored, lambda state: {**state, SCRIPT: auth_state[SCRIPT]})
        return True

    async def logged_out(self, user: HubUser, *, ends_at_provider: bool = False) -> bool:
        """Take note of a logout; returns whether its tokens are to be given back now.

        They are not while something is left that they are needed for: to look at the membership of whoever has it.
        """
        is_all_gone = not has_holdings(user)
        await self.refresher.logged_out(user, is_all_gone=is_all_gone, ends_at_provider=ends_at_provider)
        return is_all_gone

    async def _give_back_if_logged_out(self, user: HubUser) -> None:
        stored = await HubAuthStates().read(user)
        provider = cast("Any", self)
        if stored.notes.logout is not Logout.PENDING or not await knows_where_to_revoke(provider):
            return
        if await self.logged_out(user):
            await give_back(provider, user.name, stored.state or {})

    # What the refresher asks

    async def model_of(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """Userinfo as JupyterHub's auth model. Raises `Told`, `HTTPClientError` where the provider refused."""
        return await cast("Any", self)._token_to_auth_model(tokens)

    async def may_enter(self, user: HubUser, model: dict[str, Any]) -> bool:
        """`check_allowed`, for somebody who is at the hub already."""
        admin = bool(user.admin) if model.get("admin") is None else model["admin"]
        try:
            return bool(await cast("Any", self).check_allowed(user.name, {**model, "admin": admin}))
        except NotAMember:
            return False

    # What JupyterHub asks

    async def refresh_user(self, user: HubUser, handler: Any = None, **kwargs: Any) -> bool:
        """Ask about the membership again. What is new is stored already, so that JupyterHub has nothing to.

        False where the person has to log in. Raises 403 for a request with the person's own token where access is over:
        JupyterHub would let that pass.
        """
        by_own_token = _is_by_own_token(handler, user)
        verdict = await self.refresher.refresh(user)
        if is_over(verdict) and verdict.is_on_record and by_own_token:
            raise web.HTTPError(403, f"The access of {user.name} has ended: {verdict.reason}.")
        if verdict.standing is Standing.IN_DOUBT and verdict.doubt:
            return verdict.doubt.cause is Cause.FAULT
        return not is_over(verdict)

    async def fresh_auth_state(self, user: HubUser) -> Mapping[str, Any]:
        """What is known of somebody, proved lately. Raises `SpawnRefused` where that is nothing."""
        states = HubAuthStates()
        stored = await states.read(user)
        if stored.state is None:
            raise SpawnRefused(
                f"This hub has no record of the VOs of {user.name}, so no server was started. "
                "Log out, log in again and start it once more."
            )
        if not self._is_fresh(stored):
            verdict = await self.refresher.refresh(user)
            if verdict.standing in {Standing.IN_DOUBT, Standing.DOUBTED_TOO_LONG}:
                raise SpawnRefused(self._not_known(verdict))
            stored = await states.read(user)
        state = stored.state or {}
        return {KEY: state.get(KEY)} if stored.notes.is_lost else state

    def _is_fresh(self, stored: Stored) -> bool:
        # As old as a proof becomes while a server runs: the time until the next look is another's, and begins at once.
        return 0 <= time.time() - stored.notes.answered_at <= self.looking_seconds

    def _not_known(self, verdict: Verdict) -> str:
        if verdict.doubt and verdict.doubt.cause is Cause.LOGIN_NEEDED:
            return (
                f"{self.login_service} does not tell this hub any more which VOs you are in, so no server was started. "
                "Log out, log in again and start it once more."
            )
        return (
            f"{self.login_service} does not answer, so this hub cannot look up whether you are still a member of a VO that "
            "may use it. No server was started. Nothing is wrong with your account; try again in some minutes."
        )

    # What follows from a verdict

    def _end_access(self, user: HubUser, verdict: Verdict) -> None:
        if verdict.standing is Standing.LOST:
            count = end_sessions(user)
            self.log.warning("Ended the sessions of %s and removed %s tokens", user.name, count)
        if self._watch:
            self._watch.end(user)

    # What the page for administrators shows

    def doubts(self) -> Mapping[str, Verdict]:
        """Whose memberships cannot be looked at."""
        return self.refresher.doubts()

    @property
    def watch_is_failing(self) -> bool:
        """Whether the watch could not look at the hub's people when it last tried."""
        return self._watch is None or self._watch.is_failing

    @property
    def people_watched(self) -> int:
        """How many people have a server or a token."""
        return self._watch.watched if self._watch else 0

    @property
    def seconds_late(self) -> float:
        """For how long whoever has waited longest should have been asked about."""
        return self._watch.seconds_late if self._watch else 0.0


def _is_by_own_token(handler: Any, user: HubUser) -> bool:
    """Whether a request is made with a token of the person whom it is about."""
    token = handler.get_token() if handler is not None and hasattr(handler, "get_token") else None
    return token is not None and token.user_id == user.orm_user.id
