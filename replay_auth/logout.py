"""The end of a login: of the hub's session always, of the provider's where that is wanted, and of the tokens.

The hub's own part comes first and needs nobody: a provider that does not answer keeps nobody logged in here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from logging import Logger
from typing import Any, Protocol, cast
from urllib.parse import urlencode, urljoin

from oauthenticator.oauth2 import OAuthLogoutHandler
from tornado.httpclient import HTTPClientError
from traitlets import Bool, HasTraits

from replay_auth.errors import ProviderFault

KNOWING_SECONDS = 3.0
"""So long may it take to find out where the provider logs people out; otherwise the hub's logout is all."""


class LogoutSettings(HasTraits):
    """How far a logout goes."""

    logout_at_provider = Bool(
        False,
        config=True,
        help="""
        Whether logging out of the hub leads to the provider and logs out there, too (OpenID Connect RP-Initiated
        Logout). The provider has to know ``https://HUB/hub/logout`` as an address to return to.
        """,
    )

    revoke_at_logout = Bool(
        True,
        config=True,
        help="""
        Whether logging out gives the person's tokens back, where the provider lists an address for it (RFC 7009). While
        they leave a server running or have a token of the hub left, the tokens stay, so that the membership goes on being
        looked at; they go back once that is gone.
        """,
    )


class LoggedOutAt(Protocol):
    """What the handler asks of the hub's authenticator."""

    logout_at_provider: bool
    revoke_at_logout: bool
    client_id: str
    end_session_url: str
    revocation_url: str
    log: Logger | Any

    def get_callback_url(self, handler: Any) -> str: ...
    async def know_endpoints(self) -> None: ...
    async def logged_out(self, user: Any, *, ends_at_provider: bool) -> bool: ...
    async def revoke(self, token: str, kind: str) -> None: ...


class CheckinLogoutHandler(OAuthLogoutHandler):
    """Ends the hub's session, then tells the provider."""

    _ends_at_provider = False

    async def get(self) -> None:
        user: Any = self.current_user
        state: dict[str, Any] = {}
        # A link on another host's page logs out of the hub, as JupyterHub has it, and does no more than that.
        if user and self.request.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}:
            state = await user.get_auth_state() or {}
        self._id_token: str | None = state.get("id_token")
        await super().get()
        # The answer is on its way: however long the provider takes, the browser has forgotten the session.
        await self._revoke(user, state)

    @property
    def _provider(self) -> LoggedOutAt:
        return cast("LoggedOutAt", self.authenticator)

    async def render_logout_page(self) -> None:
        provider = self._provider
        if provider.logout_at_provider and self._id_token and await self._knows_endpoints():
            if provider.end_session_url:
                # Back to this handler, which then knows nobody and shows the hub's page.
                after = urljoin(provider.get_callback_url(self), "logout")
                query = {
                    "id_token_hint": self._id_token,
                    "client_id": provider.client_id,
                    "post_logout_redirect_uri": after,
                }
                self._ends_at_provider = True
                self.redirect(f"{provider.end_session_url}?{urlencode(query)}")
                return
            provider.log.warning("The provider lists no address to log out at; logged out of the hub alone.")
        await super().render_logout_page()

    async def _knows_endpoints(self) -> bool:
        try:
            async with asyncio.timeout(KNOWING_SECONDS):
                await self._provider.know_endpoints()
        except (ProviderFault, TimeoutError):
            self._provider.log.warning("The provider does not answer; logged out of the hub alone.")
            return False
        return True

    async def _revoke(self, user: Any, state: dict[str, Any]) -> None:
        provider = self._provider
        if not (state.get("refresh_token") or state.get("access_token")):
            return
        revokes = await knows_where_to_revoke(provider)
        if not (revokes or self._ends_at_provider):
            return
        is_all_gone = await provider.logged_out(user, ends_at_provider=self._ends_at_provider)
        if not revokes:
            return
        if is_all_gone:
            await give_back(provider, user.name, state)
        else:
            provider.log.info("Kept the tokens of %s, who logged out and left a server or a token", user.name)


async def knows_where_to_revoke(provider: LoggedOutAt) -> bool:
    """Whether tokens are to be given back, and the provider lists an address for it."""
    if not provider.revoke_at_logout:
        return False
    try:
        await provider.know_endpoints()
    except ProviderFault as fault:
        provider.log.warning("It is not known where tokens are to be revoked at a logout: %s", fault)
        return False
    return bool(provider.revocation_url)


async def give_back(provider: LoggedOutAt, name: str, state: Mapping[str, Any]) -> None:
    """Revoke the tokens of a login; a provider that does not take them is told of in the log."""
    tokens = [(state[kind], kind) for kind in ("refresh_token", "access_token") if state.get(kind)]
    try:
        for token, kind in tokens:
            await provider.revoke(token, kind)
    except (ProviderFault, HTTPClientError) as error:
        provider.log.warning("The tokens of %s could not be revoked at their logout: %s", name, error)
    else:
        provider.log.info("Revoked the tokens of %s, who logged out", name)
