"""The conversation with the identity provider: its addresses, its answers, and what may be believed of them.

On oauthenticator, which speaks OAuth; here is what OpenID Connect adds, and the difference between a fault of the network
and an answer. Who may enter is decided elsewhere: nothing here knows a VO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlencode

import jwt
import stamina
from oauthenticator.generic import GenericOAuthenticator
from tornado import web
from tornado.httpclient import HTTPClientError
from traitlets import Bool, Float, List, Unicode, default, validate

from replay_auth.discovery import ENDPOINTS, FURTHER_ENDPOINTS, Discovery, check_issuer
from replay_auth.errors import LoginRefused, ProviderFault, Told, is_fault, was_never_sent
from replay_auth.id_tokens import ALGORITHMS, IdTokens, SigningKeys, UnacceptableIdToken

_REQUEST_DEFAULTS: Mapping[str, object] = {"connect_timeout": 5.0, "request_timeout": 10.0, "follow_redirects": False}
"""Seconds. No redirect is followed: a client secret or an access token goes to the configured host and nowhere else."""

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - its name in the protocol
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name of the protocol, no token


class OpenIDProvider(GenericOAuthenticator):
    """What an authenticator asks an OpenID Connect provider, and what it makes of the answers."""

    issuer = Unicode(
        "https://aai.egi.eu/auth/realms/egi",
        config=True,
        help="""
        The OpenID Connect issuer. Its endpoints are read from ``<issuer>/.well-known/openid-configuration`` at the
        first login; ``authorize_url``, ``token_url``, ``userdata_url``, ``jwks_url`` and the like win where they are set.

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

    jwks_url = Unicode(config=True, help="Where the provider publishes the keys that sign ID tokens.")
    introspection_url = Unicode(config=True, help="Where the provider says what a token is good for (RFC 7662).")
    revocation_url = Unicode(config=True, help="Where the provider takes tokens back (RFC 7009).")
    end_session_url = Unicode(config=True, help="Where the provider logs people out.")

    id_token_algorithms = List(
        Unicode(),
        default_value=["RS256", "PS256", "ES256", "EdDSA"],
        config=True,
        help="The algorithms with which an ID token may be signed.",
    )

    id_token_leeway = Float(
        60.0,
        min=0.0,
        config=True,
        help="How far the clocks of hub and provider may be apart, in seconds.",
    )

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

    @validate("id_token_algorithms")
    def _validate_algorithms(self, proposal: Any) -> list[str]:
        if wrong := sorted(set(proposal.value) - set(ALGORITHMS)):
            raise ValueError(f"{', '.join(wrong)} cannot sign ID tokens here. What can: {', '.join(ALGORITHMS)}.")
        return proposal.value

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_issuer(self.issuer, may_be_insecure=self.insecure_issuer)
        self._discovery = Discovery(self.issuer, fetch=self._fetch_configuration, unusable=self._misconfigured)
        if self.userdata_from_id_token:
            raise ValueError("userdata_from_id_token cannot be used: the ID tokens of Check-in hold no memberships.")

    # What of the provider has to be known

    async def know_endpoints(self) -> None:
        """Read the provider's configuration unless that is done, or an administrator has set all that a login needs.

        Raises `ProviderFault`.
        """
        if all(getattr(self, name) for name in ENDPOINTS):
            return
        found = await self._discovery.endpoints()
        missing = [name for name in (*ENDPOINTS, *FURTHER_ENDPOINTS) if not getattr(self, name) and name in found]
        for name in missing:
            setattr(self, name, found[name])
        if missing:
            self.log.info("Read the configuration of %s from %s", self.login_service, self._discovery.url)

    async def _fetch_configuration(self, url: str) -> Mapping[str, object]:
        try:
            return await self._get_json(url, "reading the provider's configuration")
        except HTTPClientError as error:
            raise self._misconfigured(f"{url} answered {error.code}") from error

    async def _fetch_keys(self) -> Mapping[str, object]:
        await self.know_endpoints()
        try:
            return await self._get_json(self.jwks_url, "reading the provider's keys")
        except HTTPClientError as error:
            raise self._misconfigured(f"{self.jwks_url} answered {error.code}") from error

    async def _get_json(self, url: str, label: str) -> Mapping[str, object]:
        headers = {"Accept": "application/json", "User-Agent": "JupyterHub"}
        return cast(
            "Mapping[str, object]",
            await self.httpfetch(url, label, method="GET", headers=headers, validate_cert=self.validate_server_cert),
        )

    def _misconfigured(self, reason: str) -> ProviderFault:
        self.log.error("The provider's configuration cannot be used: %s", reason)
        return ProviderFault(
            f"Nobody can log in at the moment: this hub could not make out the configuration of {self.login_service}. "
            "The administrators of this hub have to look into it; nothing is wrong with your account."
        )

    # Asking it

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
        """Tokens for a code or a refresh token; with a code, an ID token for this very login is among them.

        Raises `LoginRefused`, `ProviderFault`, `HTTPClientError` where the provider refused.
        """
        tokens = await self._token_answer(handler, params)
        is_login = params.get("grant_type") == "authorization_code"
        if is_login or tokens.get("id_token"):
            await self._verify_id_token(tokens.get("id_token"), nonce=handler.login_nonce() if is_login else None)
        return tokens

    async def _token_answer(self, handler: Any, params: dict[str, Any]) -> dict[str, Any]:
        await self.know_endpoints()
        try:
            return cast("dict[str, Any]", await super().get_token_info(handler, params))
        except Told:
            raise
        except web.HTTPError as error:
            # Its message may hold what the provider sent, tokens as well.
            raise self._fault("its answer held no access token") from error

    async def renewed_tokens(self, refresh_token: str) -> dict[str, Any]:
        """New tokens for a refresh token, as they come: they have to be kept before anything else, `verify_renewed` too.

        Raises `ProviderFault`, `HTTPClientError` where the provider refused.
        """
        return await self._token_answer(None, self.build_refresh_token_request_params(refresh_token))

    async def narrowed_tokens(self, refresh_token: str, scopes: Sequence[str]) -> dict[str, Any]:
        """As `renewed_tokens`, for no more than these scopes (RFC 6749, 6)."""
        params = super().build_refresh_token_request_params(refresh_token)
        return await self._token_answer(None, {**params, "scope": " ".join(scopes)})

    async def exchanged_tokens(self, access_token: str, scopes: Sequence[str], audience: str) -> dict[str, Any]:
        """Another access token in exchange for one (RFC 8693); an empty audience is not asked for.

        Raises `ProviderFault`, `HTTPClientError` where the provider refused.
        """
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": access_token,
            "subject_token_type": ACCESS_TOKEN_TYPE,
            "requested_token_type": ACCESS_TOKEN_TYPE,
            "scope": " ".join(scopes),
        }
        if audience:
            form["audience"] = audience
        if not self.basic_auth:
            form |= {"client_id": self.client_id, "client_secret": self.client_secret}
        return await self._token_answer(None, form)

    async def lists_token_exchange(self) -> bool:
        """Whether the provider's configuration names it among what it does. Raises `ProviderFault`."""
        return TOKEN_EXCHANGE in await self._discovery.grant_types()

    async def verify_renewed(self, tokens: Mapping[str, Any]) -> None:
        """Raises `LoginRefused` for an ID token that is not the provider's, `ProviderFault`."""
        if id_token := tokens.get("id_token"):
            await self._verify_id_token(id_token, nonce=None)

    async def introspected(self, token: str) -> Mapping[str, Any]:
        """What the provider says of a token (RFC 7662). Raises `ProviderFault`, `HTTPClientError` where it refused."""
        await self.know_endpoints()
        if not self.introspection_url:
            raise self._misconfigured("it lists no address for introspection; set introspection_url")
        form = {"token": token, "token_type_hint": "access_token"}
        if not self.basic_auth:
            form |= {"client_id": self.client_id, "client_secret": self.client_secret}
        return cast(
            "Mapping[str, Any]",
            await self.httpfetch(
                self.introspection_url,
                "introspecting a token",
                method="POST",
                headers=self.build_token_info_request_headers(),
                body=urlencode(form).encode(),
                validate_cert=self.validate_server_cert,
            ),
        )

    async def is_inactive(self, access_token: str) -> bool:
        """Whether the provider says that a token is worth nothing; False where it lists no address to ask.

        Raises `ProviderFault`, `HTTPClientError` where the provider refused.
        """
        await self.know_endpoints()
        return bool(self.introspection_url) and (await self.introspected(access_token)).get("active") is False

    async def _verify_id_token(self, text: object, *, nonce: str | None) -> None:
        try:
            await self._id_tokens.verified(text, nonce=nonce)
        except UnacceptableIdToken as error:
            raise self._unproved(f"the ID token cannot be accepted: {error}") from error

    @cached_property
    def _id_tokens(self) -> IdTokens:
        return IdTokens(
            SigningKeys(self._fetch_keys),
            issuer=self.issuer,
            client_id=self.client_id,
            algorithms=self.id_token_algorithms,
            leeway=self.id_token_leeway,
        )

    def _unproved(self, reason: str) -> LoginRefused:
        return LoginRefused(
            f"What {self.login_service} sent does not prove who you are, so you were not logged in. Log in again.",
            reason=reason,
        )

    async def token_to_user(self, token_info: dict[str, Any]) -> dict[str, Any]:
        """Userinfo, which must be about the person that the ID token is about (OpenID Connect Core 1.0, 5.3.2).

        Raises `LoginRefused`, `ProviderFault`, `HTTPClientError` where the provider refused.
        """
        await self.know_endpoints()
        claims = cast("dict[str, Any]", await super().token_to_user(token_info))
        id_token = token_info.get("id_token")
        if id_token and claims.get("sub") != _subject(id_token):
            raise LoginRefused(
                f"{self.login_service} gave two answers about who you are. Log in again.",
                reason="userinfo and ID token are about different subjects",
            )
        return claims

    def build_refresh_token_request_params(self, refresh_token: str) -> dict[str, Any]:
        # Check-in wants the scope again.
        params = super().build_refresh_token_request_params(refresh_token)
        return {**params, "scope": " ".join(self.scope)}

    async def revoke(self, token: str, kind: str) -> None:
        """Give a token back; ``kind`` is ``refresh_token``, which ends the whole login there, or ``access_token``.

        Raises `ProviderFault`, `HTTPClientError` where the provider refused.
        """
        form = {"token": token, "token_type_hint": kind}
        if not self.basic_auth:
            form |= {"client_id": self.client_id, "client_secret": self.client_secret}
        await self.httpfetch(
            self.revocation_url,
            "revoking a token",
            parse_json=False,
            method="POST",
            headers=self.build_token_info_request_headers(),
            body=urlencode(form).encode(),
            validate_cert=self.validate_server_cert,
        )


def _subject(id_token: str) -> object:
    # It was verified when it came, and has been in this process or in the hub's encrypted state since.
    try:
        return jwt.decode(id_token, options={"verify_signature": False}).get("sub")
    except jwt.InvalidTokenError:
        return None
