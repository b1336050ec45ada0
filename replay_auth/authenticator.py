"""Login with EGI Check-in, and the refusal of whoever is in none of the permitted VOs.

In the hub's process: the settings, and the hooks of oauthenticator that they need. How a login looks is the business
of `replay_auth.handlers`, where the provider's endpoints come from that of `replay_auth.discovery`, what an entitlement
means that of `replay_auth.entitlements`; nothing here watches memberships while servers run.
Nothing here may block the hub's loop, and no fault of the network may be taken for a fact about a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isawaitable
from typing import Any, cast
from urllib.parse import urlsplit

import jwt
import stamina
from oauthenticator.generic import GenericOAuthenticator
from tornado.httpclient import HTTPClientError
from traitlets import Bool, Dict, List, Tuple, Unicode, default, validate

from replay_auth.discovery import ENDPOINTS, Discovery, check_issuer
from replay_auth.entitlements import MembershipRules, ReleasedEntitlements
from replay_auth.errors import (
    Account,
    NotAMember,
    ProviderFault,
    SpawnRefused,
    Told,
    is_fault,
    text_claim,
    was_never_sent,
)
from replay_auth.handlers import CheckinCallbackHandler, CheckinLoginHandler

_REQUEST_DEFAULTS: Mapping[str, object] = {"connect_timeout": 5.0, "request_timeout": 10.0, "follow_redirects": False}
"""Seconds. No redirect is followed: a client secret or an access token goes to the configured host and nowhere else."""


class EGICheckinAuthenticator(GenericOAuthenticator):
    """Login with EGI Check-in: members of at least one permitted VO may enter, and their VOs become hub groups.

    Membership is checked at login and again wherever a server starts. The hub must have ``JUPYTERHUB_CRYPT_KEY``:
    what was released about a person is kept as encrypted auth state.
    """

    login_handler = CheckinLoginHandler
    callback_handler = CheckinCallbackHandler

    issuer = Unicode(
        "https://aai.egi.eu/auth/realms/egi",
        config=True,
        help="""
        The OpenID Connect issuer. Its endpoints are read from ``<issuer>/.well-known/openid-configuration`` at the
        first login; ``authorize_url``, ``token_url`` and ``userdata_url`` win where they are set.

        EGI's other instances: ``https://aai-demo.egi.eu/auth/realms/egi``, ``https://aai-dev.egi.eu/auth/realms/egi``.
        """,
    )

    insecure_issuer = Bool(
        False,
        config=True,
        help="""
        Accept an issuer with ``http:`` on a host other than loopback. Client secret, tokens and memberships then
        travel in the clear: for closed test networks only.
        """,
    )

    permitted_vos = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        The VOs whose members may enter: name → where to ask for membership, or ``""`` where there is no such page::

            c.EGICheckinAuthenticator.permitted_vos = {
                "vo.notebooks.egi.eu": "https://aai.egi.eu/registry/co_petitions/start/coef:111",
                "vo.access.egi.eu": "",
            }

        A person is a member who has an entitlement for the top group of that name, with any role or none, from one
        of `trusted_sources`. The names become the hub groups. Without any, nobody enters.
        """,
    ).tag(allow_config=True)

    trusted_sources = List(
        Tuple(Unicode(), Unicode()),
        default_value=[("urn:mace:egi.eu", "aai.egi.eu")],
        config=True,
        help="Who may speak about a VO by its bare name: pairs of (namespace, authority), compared whole.",
    )

    vo_entitlements = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        The full entitlement of each permitted VO that another source speaks for, or that is a subgroup or a role::

            c.EGICheckinAuthenticator.vo_entitlements = {
                "LAGO-AAI": "urn:geant:eduteams.org:service:eduteams:group:LAGO-AAI#eduteams.org",
            }

        For these names `trusted_sources` do not count. Without a role any role will do.
        """,
    )

    exempt_admins = Bool(
        False,
        config=True,
        help="Let the hub's admins in, and let them start servers, without membership of a VO.",
    )

    @default("login_service")
    def _default_login_service(self) -> str:
        return "EGI Check-in"

    @default("scope")
    def _default_scope(self) -> list[str]:
        # Both names of the entitlements, until Check-in has finished its move; offline_access for a refresh token.
        return [
            "openid",
            "profile",
            "email",
            "voperson_id",
            "eduperson_entitlement",
            "entitlements",
            "offline_access",
        ]

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

    @validate("permitted_vos")
    def _validate_permitted_vos(self, proposal: Any) -> dict[str, str]:
        for name, url in proposal.value.items():
            if not name.strip():
                raise ValueError("permitted_vos has an empty name.")
            if url and urlsplit(url).scheme not in {"https", "http"}:
                raise ValueError(f"The enrolment address of {name} is {url!r}, which is no http or https URL.")
        return proposal.value

    @validate("allow_all")
    def _validate_allow_all(self, proposal: Any) -> bool:
        if proposal.value:
            raise ValueError(
                "allow_all would let everybody in who has an account at the provider. Remove it, and name the VOs "
                "whose members may enter in EGICheckinAuthenticator.permitted_vos."
            )
        return False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_issuer(self.issuer, may_be_insecure=self.insecure_issuer)
        self._discovery = Discovery(self.issuer, fetch=self._fetch_configuration, unusable=self._misconfigured)
        self._logged_unread: set[str] = set()
        if self.userdata_from_id_token:
            raise ValueError("userdata_from_id_token cannot be used: the ID tokens of Check-in hold no memberships.")
        self.membership_rules()

    def check_allow_config(self) -> None:
        """Warn at the hub's start about settings with which nobody, or somebody unexpected, would stay out."""
        super().check_allow_config()
        for name in ("allowed_users", "allow_existing_users", "allowed_groups", "allowed_scopes"):
            if getattr(self, name):
                self.log.warning("%s lets nobody in here: membership of a permitted VO decides who enters.", name)

    # What of the provider has to be known

    async def know_endpoints(self) -> None:
        """Read the provider's configuration unless that is done, or an administrator has set all that it would tell.

        Raises `ProviderFault`.
        """
        if all(getattr(self, name) for name in ENDPOINTS):
            return
        found = await self._discovery.endpoints()
        missing = [name for name in ENDPOINTS if not getattr(self, name)]
        for name in missing:
            setattr(self, name, found[name])
        if missing:
            self.log.info("Read the configuration of %s from %s", self.login_service, self._discovery.url)

    async def _fetch_configuration(self, url: str) -> Mapping[str, object]:
        try:
            document: Mapping[str, object] = await self.httpfetch(
                url,
                "reading the provider's configuration",
                method="GET",
                headers={"Accept": "application/json", "User-Agent": "JupyterHub"},
                validate_cert=self.validate_server_cert,
            )
        except HTTPClientError as error:
            raise self._misconfigured(f"{url} answered {error.code}") from error
        return document

    def _misconfigured(self, reason: str) -> ProviderFault:
        self.log.error("The provider's configuration cannot be used: %s", reason)
        return ProviderFault(
            f"Nobody can log in at the moment: this hub could not make out the configuration of {self.login_service}. "
            "The administrators of this hub have to look into it; nothing is wrong with your account."
        )

    async def httpfetch(
        self, url: str, label: str = "fetching", parse_json: bool = True, raise_error: bool = True, **kwargs: Any
    ) -> Any:
        """As in oauthenticator, with faults of the network told from answers.

        What only reads is tried three times; what changes something (a code works once) only until it has been sent.
        Raises `ProviderFault` for a fault that stays, `HTTPClientError` where the provider refused.
        """
        options = {name: value for name, value in _REQUEST_DEFAULTS.items() if name not in self.http_request_kwargs}
        options.update(kwargs)
        retried = is_fault if kwargs.get("method", "GET") == "GET" else was_never_sent
        answer: Any = None
        try:
            async for attempt in stamina.retry_context(
                on=retried, attempts=3, timeout=15.0, wait_initial=0.2, wait_max=1.0, wait_jitter=0.1
            ):
                with attempt:
                    answer = await super().httpfetch(url, label, parse_json, raise_error, **options)
        except ValueError as error:
            raise self._fault("its answer could not be read") from error
        except Exception as error:
            if is_fault(error):
                raise self._fault(str(error) or type(error).__name__) from error
            raise
        if parse_json and not isinstance(answer, dict):
            raise self._fault("its answer was no JSON object")
        return answer

    def _fault(self, reason: str) -> ProviderFault:
        self.log.error("%s is not to be reached: %s", self.login_service, reason)
        return ProviderFault(
            f"{self.login_service} does not answer at the moment, so this hub cannot find out who you are. "
            "Nothing is wrong with your account. Wait a minute and try again."
        )

    async def get_token_info(self, handler: Any, params: dict[str, Any]) -> dict[str, Any]:
        await self.know_endpoints()
        return cast("dict[str, Any]", await super().get_token_info(handler, params))

    async def token_to_user(self, token_info: dict[str, Any]) -> dict[str, Any]:
        """Userinfo, which must be about the person that the ID token is about (OpenID Connect Core 1.0, 5.3.2)."""
        await self.know_endpoints()
        claims = cast("dict[str, Any]", await super().token_to_user(token_info))
        id_token = token_info.get("id_token")
        if id_token and claims.get("sub") != _subject(id_token):
            self.log.error("Userinfo and ID token of %s are about different subjects", self.login_service)
            raise Told(403, f"{self.login_service} gave two answers about who you are. Log in again.")
        return claims

    def build_refresh_token_request_params(self, refresh_token: str) -> dict[str, Any]:
        # Check-in wants the scope again.
        params = super().build_refresh_token_request_params(refresh_token)
        return {**params, "scope": " ".join(self.scope)}

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

    def membership_rules(self) -> MembershipRules:
        """What proves membership of each permitted VO. Raises `ValueError` for settings that cannot be meant."""
        unknown = sorted(self.vo_entitlements.keys() - self.permitted_vos.keys())
        if unknown:
            raise ValueError(f"vo_entitlements names VOs that are not in permitted_vos: {', '.join(unknown)}.")
        return MembershipRules.of(self.permitted_vos, self.trusted_sources, self.vo_entitlements)

    def permitted_vos_of(self, auth_state: Mapping[str, object] | None) -> list[str]:
        """The permitted VOs that a stored or a fresh auth state proves, sorted; without any state, none."""
        released = ReleasedEntitlements.of_claims(self._claims(auth_state))
        for text in released.unread:
            # Each is told once; the bound keeps a provider that makes up new ones from filling the memory.
            if text not in self._logged_unread and len(self._logged_unread) < 1000:
                self._logged_unread.add(text)
                self.log.debug("Not an entitlement that can be read, so it counts for nothing: %s", text)
        return self.membership_rules().memberships(released)

    def _claims(self, auth_state: Mapping[str, object] | None) -> Mapping[str, object]:
        claims = (auth_state or {}).get(self.user_auth_state_key)
        return cast("Mapping[str, object]", claims) if isinstance(claims, dict) else {}

    async def get_user_groups(self, auth_state: dict[str, Any]) -> set[str]:
        """Permitted VOs and nothing else become groups: what the provider says beyond them gives no rights here."""
        return set(self.permitted_vos_of(auth_state))

    async def check_allowed(self, username: str, auth_model: dict[str, Any] | None) -> bool:
        """Raises `NotAMember` for whoever is in no permitted VO. No other ``allow`` setting makes up for it."""
        if auth_model is None:
            # JupyterHub asks this about accounts that no login stands behind.
            return await super().check_allowed(username, auth_model)
        auth_state = auth_model["auth_state"]
        if self.permitted_vos_of(auth_state) or (self.exempt_admins and auth_model["admin"]):
            return True
        account = Account.of_claims(username, self._claims(auth_state))
        raise NotAMember(f"None of the VOs of {username} may use this service.", account)

    # The hub awaits this hook where it is a coroutine; its own is not.
    async def pre_spawn_start(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, user: Any, spawner: Any
    ) -> None:
        """Refuse whoever is in no permitted VO by what is stored now. Logging in is not the only way to a server.

        Raises `SpawnRefused`.
        """
        if not (self.exempt_admins and user.admin):
            auth_state = await user.get_auth_state()
            if not auth_state:
                raise SpawnRefused(
                    f"This hub has no record of the VOs of {user.name}, so no server was started. "
                    "Log out, log in again and start it once more."
                )
            if not self.permitted_vos_of(auth_state):
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


def _subject(id_token: str) -> object:
    # It came straight from the token endpoint, so the connection vouches for it (OpenID Connect Core 1.0, 3.1.3.7).
    try:
        return jwt.decode(id_token, options={"verify_signature": False}).get("sub")
    except jwt.InvalidTokenError:
        return None
