"""Login with EGI Check-in, and the refusal of whoever is in none of the permitted VOs.

In the hub's process: the hooks of JupyterHub and oauthenticator, and what they decide. How a login looks is the business
of `replay_auth.handlers`, what the provider is asked and how far it is believed that of `replay_auth.provider`, which VOs
there are and what proves them that of `replay_auth.vos`, what becomes of a membership after the login that of
`replay_auth.watched`, and sessions' own access tokens that of `replay_auth.session_tokens`.
Nothing here may block the hub's loop, and no fault of the network may be taken for a fact about a person.
"""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

from traitlets import Bool, default, validate

from replay_auth.errors import Account, NotAMember, SpawnRefused, Told, text_claim
from replay_auth.handlers import CheckinCallbackHandler, CheckinLoginHandler
from replay_auth.logout import CheckinLogoutHandler, LogoutSettings
from replay_auth.provider import OpenIDProvider
from replay_auth.session_tokens import SessionTokens
from replay_auth.vos import PermittedVOs
from replay_auth.watched import WatchedMemberships


class EGICheckinAuthenticator(PermittedVOs, LogoutSettings, WatchedMemberships, SessionTokens, OpenIDProvider):
    """Login with EGI Check-in: members of at least one permitted VO may enter, and their VOs become hub groups.

    Membership is checked at login, wherever a server starts, and while it runs. The hub must have ``JUPYTERHUB_CRYPT_KEY``:
    what was released about a person is kept as encrypted auth state.
    """

    login_handler = CheckinLoginHandler
    callback_handler = CheckinCallbackHandler
    logout_handler = CheckinLogoutHandler

    exempt_admins = Bool(
        False,
        config=True,
        help="Let the hub's admins in, and let them start servers, without membership of a VO.",
    )

    @default("login_service")
    def _default_login_service(self) -> str:
        return "EGI Check-in"

    @default("username_claim")
    def _default_username_claim(self) -> str:
        # preferred_username is not unique at Check-in.
        return "voperson_id"

    @default("manage_groups")
    def _default_manage_groups(self) -> bool:
        return True

    @default("enable_auth_state")
    def _default_enable_auth_state(self) -> bool:
        return True

    @validate("allow_all")
    def _validate_allow_all(self, proposal: Any) -> bool:
        if proposal.value:
            raise ValueError(
                "allow_all would let everybody in who has an account at the provider. Remove it, and name the VOs "
                "whose members may enter in EGICheckinAuthenticator.permitted_vos."
            )
        return False

    def check_allow_config(self) -> None:
        """Warn at the hub's start about settings with which nobody, or somebody unexpected, would stay out."""
        super().check_allow_config()
        for name in ("allowed_users", "allow_existing_users", "allowed_groups", "allowed_scopes"):
            if getattr(self, name):
                self.log.warning("%s lets nobody in here: membership of a permitted VO decides who enters.", name)

    # Who the person is, and where they belong

    def user_info_to_username(self, user_info: dict[str, Any]) -> str:
        claim = self.username_claim
        if isinstance(claim, str) and not text_claim(user_info, claim):
            self.log.error("Userinfo has no %s; it has %s", claim, sorted(user_info))
            raise Told(
                403,
                f"{self.login_service} did not tell this hub your identifier ({claim}). Log in again and agree that "
                "it is passed on; if you were not asked, the administrators of this hub have to request its scope.",
            )
        return str(super().user_info_to_username(user_info))

    async def get_user_groups(self, auth_state: dict[str, Any]) -> set[str]:
        """Permitted VOs and their managers, nothing else: what the provider says beyond them gives no rights here."""
        return self.groups_of(auth_state, self._username_in(auth_state))

    def _username_in(self, auth_state: dict[str, Any]) -> str:
        claims = dict(self.claims_of(auth_state))
        claim = self.username_claim
        if isinstance(claim, str) and not text_claim(claims, claim):
            return ""
        return self.normalize_username(self.user_info_to_username(claims))

    async def check_allowed(self, username: str, auth_model: dict[str, Any] | None) -> bool:
        """Raises `NotAMember` for whoever is in no permitted VO. No other ``allow`` setting makes up for it."""
        if auth_model is None:
            # JupyterHub asks this about accounts that no login stands behind.
            return await super().check_allowed(username, auth_model)
        auth_state = auth_model["auth_state"]
        if self.permitted_vos_of(auth_state) or (self.exempt_admins and auth_model["admin"]):
            return True
        account = Account.of_claims(username, self.claims_of(auth_state))
        raise NotAMember(f"None of the VOs of {username} may use this service.", account)

    # The hub awaits this hook where it is a coroutine; its own is not.
    async def pre_spawn_start(  # pyright: ignore[reportIncompatibleMethodOverride] - the hub awaits a coroutine, too
        self, user: Any, spawner: Any
    ) -> None:
        """Refuse whoever is in no permitted VO by what was proved lately. Logging in is not the only way to a server.

        Raises `SpawnRefused`.
        """
        is_exempt = self.exempt_admins and user.admin
        if not (is_exempt or self.permitted_vos_of(await self.fresh_auth_state(user))):
            raise SpawnRefused(self._not_permitted_any_more(user.name))
        started: Any = super().pre_spawn_start(user, spawner)
        if isawaitable(started):
            await started

    def _not_permitted_any_more(self, username: str) -> str:
        names = ", ".join(sorted(self.permitted_vos)) or "none is configured"
        return (
            f"None of the VOs of {username} may start servers here. The VOs that may: {names}. "
            "Who has joined one of them logs out, logs in again and starts the server once more."
        )
