"""The authenticator's part in sessions' own access tokens: its settings, and the two calls that spawners make.

How a token is obtained and given back is `replay_auth.token_source`, what of an answer may be handed on
`replay_auth.token_answers`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from traitlets import Bool, Enum, HasTraits, List, Unicode, validate

from replay_auth.stored import HubAuthStates, HubUser
from replay_auth.token_answers import SessionToken
from replay_auth.token_source import SessionTokenSource, SessionTokenUnavailable, Way

__all__ = ["SessionToken", "SessionTokenSettings", "SessionTokenUnavailable", "SessionTokens"]


class SessionTokenSettings(HasTraits):
    """What sessions' tokens are good for, and how the provider gives them."""

    session_token_by = Enum(
        [way.value for way in Way],
        default_value=Way.AUTO.value,
        config=True,
        help="""
        How a session's own access token is obtained: ``exchange``, of the login's access token for another (RFC 8693), for
        which the provider has to allow token exchange to this client; ``refresh``, by the login's refresh token, with fewer
        scopes; or ``auto``: by exchange where the provider lists that and grants it, otherwise by a refresh.
        """,
    )

    session_token_scopes = List(
        Unicode(),
        default_value=["openid", "voperson_id", "eduperson_entitlement", "entitlements"],
        config=True,
        help="""
        What a session's token may be used for: ``openid`` to ask userinfo, which services of EGI do to learn whose a token
        is; the rest for the identifier and the VOs that it then says, under both of the names that they have. Without name
        and e-mail address: add ``profile`` and ``email`` for services that need them. A token that is good for more than is
        named here is not handed on.
        """,
    )

    session_token_audience = Unicode(
        config=True,
        help="The audience that is asked for when tokens are exchanged; without one, the provider's own choice.",
    )

    revoke_session_tokens = Bool(
        True,
        config=True,
        help="""
        Whether a session's token is given back when the session ends (RFC 7009). Switch it off for a provider that ends all
        of a login when one of its access tokens is given back; the token then works until it expires.
        """,
    )

    @validate("session_token_scopes")
    def _validate_session_token_scopes(self, proposal: Any) -> list[str]:
        scopes: list[str] = proposal.value
        if not scopes or any(not scope or scope.split() != [scope] for scope in scopes):
            raise ValueError("session_token_scopes has to name what a session's token may be used for, a scope each.")
        if "offline_access" in scopes:
            raise ValueError(
                "session_token_scopes has offline_access: code in a session could then act as its person for good. "
                "Remove it; the hub renews the token for as long as the session runs."
            )
        return scopes

    def check_session_token_settings(self, login_scopes: list[str]) -> None:
        """Raises `ValueError` for settings that do not go together."""
        if self.session_token_by != Way.REFRESH:
            return
        if self.session_token_audience:
            raise ValueError(
                "session_token_audience needs an exchange of tokens: set session_token_by to “exchange”, or remove it."
            )
        if more := sorted(set(self.session_token_scopes) - set(login_scopes)):
            raise ValueError(
                f"session_token_scopes has {', '.join(more)}, which a refresh cannot give: the login does not ask for it. "
                "Add it to EGICheckinAuthenticator.scope, or remove it."
            )


class SessionTokens(SessionTokenSettings):
    """An authenticator's part: tokens for sessions. To be mixed in over `OpenIDProvider`, beside `WatchedMemberships`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_session_token_settings(cast("Any", self).scope)

    async def session_token(self, user: HubUser) -> SessionToken:
        """Another access token for one session of a person's. Raises `SessionTokenUnavailable`, what the database raises."""
        return await self._session_token_source.obtained(user)

    async def end_session_token(self, user: HubUser, value: str) -> None:
        """Give a session's token back, where that ends nothing else; raises nothing. Takes half a minute at most."""
        await self._session_token_source.end(user, value)

    @cached_property
    def _session_token_source(self) -> SessionTokenSource:
        return SessionTokenSource(cast("Any", self), HubAuthStates())
