"""The protocol of the stand-in for Check-in: authlib's OpenID Connect, over our memory, our people and our controls.

Like Check-in, it insists on PKCE, releases memberships in userinfo and introspection only, and gives a refresh token
to whoever asks for ``offline_access``. Addresses, pages and sockets are no business of this room; what ID tokens hold
and how they are signed is `demo.checkin_id_tokens`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import (
    InvalidGrantError,
    InvalidRequestError,
    TokenEndpointMixin,
    UnauthorizedClientError,
    grants,
)
from authlib.oauth2.rfc6749.grants.base import BaseGrant
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.core import UserInfo, UserInfoEndpoint
from flask import Flask

from demo.checkin_controls import Controls, Standing
from demo.checkin_id_tokens import CodeIdentity, RefreshedIdentity, SigningKeys, identity
from demo.checkin_memory import TOKEN_EXCHANGE, AuthorizationCode, Client, Memory, Token
from demo.people import Person

__all__ = ["CheckinServer"]

_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


class CheckinServer(AuthorizationServer):
    """authlib's server over our memory, with signing keys of its own."""

    def __init__(self, app: Flask, *, issuer: str, client: Client, memory: Memory, controls: Controls) -> None:
        self.issuer = issuer
        self.client = client
        self.memory = memory
        self.controls = controls
        self.keys = SigningKeys()
        app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
        super().__init__(app)
        protector = ResourceProtector()
        protector.register_token_validator(AccessTokens(memory, controls))
        self.register_grant(CodeGrant, [RequiredS256(required=True), CodeIdentity(self)])
        self.register_grant(RefreshGrant, [RefreshedIdentity(self)])
        self.register_grant(ExchangeGrant)
        self.register_endpoint(Userinfo(self, resource_protector=protector))
        self.register_endpoint(Introspection)
        self.register_endpoint(Revocation)

    def query_client(self, client_id: str) -> Client | None:
        return self.client if client_id == self.client.client_id else None

    def generate_token(self, *args: Any, **options: Any) -> dict[str, Any]:
        options["expires_in"] = self.controls.settings.access_token_seconds
        return super().generate_token(*args, **options)

    def save_token(self, token: dict[str, Any], request: Any) -> None:
        before: Token | None = request.refresh_token
        self.memory.add_token(
            Token(
                person=request.user,
                client=request.client,
                scope=token.get("scope", ""),
                access_token=token["access_token"],
                refresh_token=token.get("refresh_token"),
                issued_at=int(time.time()),
                expires_in=token["expires_in"],
                family=before.family if before else secrets.token_hex(8),
                audience=(request.form.get("audience") or request.client.client_id,),
                login_scope=before.login_scope if before else token.get("scope", ""),
            )
        )


class CodeGrant(grants.AuthorizationCodeGrant):
    """A code for a login, used once; a refresh token only for whoever asked for ``offline_access``."""

    server: CheckinServer

    def save_authorization_code(self, code: str, request: Any) -> None:
        data = request.payload.data
        meaning = AuthorizationCode(
            person=request.user,
            redirect_uri=request.payload.redirect_uri,
            scope=request.scope,
            nonce=data.get("nonce"),
            code_challenge=data["code_challenge"],
            code_challenge_method=data["code_challenge_method"],
            issued_at=int(time.time()),
        )
        self.server.memory.add_code(code, meaning)

    def query_authorization_code(self, code: str, client: Client) -> AuthorizationCode | None:
        return self.server.memory.take_code(code)

    def delete_authorization_code(self, authorization_code: AuthorizationCode) -> None:
        """Nothing is left to delete: it was taken when it was read."""

    def authenticate_user(self, authorization_code: AuthorizationCode) -> Person:
        return authorization_code.person

    def generate_token(self, *args: Any, scope: str, **options: Any) -> dict[str, Any]:
        options["include_refresh_token"] = "offline_access" in scope.split()
        return super().generate_token(*args, scope=scope, **options)


class RefreshGrant(grants.RefreshTokenGrant):
    """New access tokens without a login."""

    server: CheckinServer
    TOKEN_ENDPOINT_AUTH_METHODS = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        rotates = self.server.controls.settings.rotates_refresh_tokens
        token = self.server.memory.use_refresh_token(refresh_token, up=rotates)
        if token and self.server.controls.standing_of(token.person) is Standing.INACTIVE:
            return None
        # What may be asked for is what the login was granted, whatever was asked for since.
        return replace(token, scope=token.login_scope) if token else None

    def authenticate_user(self, refresh_token: Token) -> Person:
        return refresh_token.person

    def generate_token(self, *args: Any, **options: Any) -> dict[str, Any]:
        options["include_refresh_token"] = self.server.controls.settings.rotates_refresh_tokens
        return super().generate_token(*args, **options)

    def revoke_old_credential(self, refresh_token: Token) -> None:
        """Where refresh tokens rotate, it was used up when it was read."""


class ExchangeGrant(BaseGrant, TokenEndpointMixin):
    """An access token for another audience, in exchange for one of ours (RFC 8693). Check-in grants it to few."""

    server: CheckinServer
    GRANT_TYPE = TOKEN_EXCHANGE
    TOKEN_ENDPOINT_AUTH_METHODS = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS

    def validate_token_request(self) -> None:
        client = self.authenticate_token_endpoint_client()
        if not self.server.controls.settings.exchanges_tokens:
            raise UnauthorizedClientError("This client may not exchange tokens.")
        form: Any = self.request.form
        if form.get("subject_token_type") != _ACCESS_TOKEN:
            raise InvalidRequestError("The subject_token_type has to be that of an access token.")
        if form.get("requested_token_type", _ACCESS_TOKEN) != _ACCESS_TOKEN:
            raise InvalidRequestError("Nothing but access tokens are given here.")
        subject = usable(self.server.memory.of_access_token(form.get("subject_token", "")), self.server.controls)
        if subject is None:
            raise InvalidGrantError("The subject_token is not valid.")
        self.request.client = client
        self.request.user = subject.person
        self.request.refresh_token = subject  # of whose login the new token becomes one
        self._scope = form.get("scope") or subject.scope

    def create_token_response(self) -> tuple[int, dict[str, Any], Collection[tuple[str, str]]]:
        token = self.generate_token(user=self.request.user, scope=self._scope, include_refresh_token=False)
        self.save_token(token)
        return 200, {**token, "issued_token_type": _ACCESS_TOKEN}, self.TOKEN_RESPONSE_HEADER


class RequiredS256(CodeChallenge):
    """PKCE that nobody can leave out, with the one method that protects anything."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if not data.get("code_challenge"):
            raise InvalidRequestError("Missing parameter: code_challenge")
        if data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("Invalid parameter: code challenge method is not S256")
        super().validate_code_challenge(grant, redirect_uri)


class Userinfo(UserInfoEndpoint):
    """Who the person of an access token is, with their memberships."""

    def __init__(self, server: CheckinServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._controls = server.controls

    def generate_user_info(self, user: Person, scope: str) -> UserInfo:
        claims = identity_and_memberships(user, scope, self._controls)
        if (subject := self._controls.settings.userinfo_subject) is not None:
            claims["sub"] = subject
        return claims


class Introspection(IntrospectionEndpoint):
    """What a token is good for, whoever's it is, with the memberships of its person."""

    server: CheckinServer

    CLIENT_AUTH_METHODS = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        memory = self.server.memory
        found = memory.of_access_token(token_string) or memory.of_refresh_token(token_string)
        return usable(found, self.server.controls)

    def check_permission(self, token: Token, client: Client, request: Any) -> bool:
        return True

    def introspect_token(self, token: Token) -> dict[str, Any]:
        ahead = self.server.controls.settings.clock_skew_seconds
        described = {
            "iss": self.server.issuer,
            "client_id": token.client.client_id,
            "azp": token.client.client_id,
            "aud": token.audience[0] if len(token.audience) == 1 else list(token.audience),
            "scope": token.scope,
            "token_type": "Bearer",
            "iat": token.issued_at + ahead,
            "exp": token.issued_at + token.expires_in + ahead,
        }
        return {**described, **identity_and_memberships(token.person, token.scope, self.server.controls)}


class Revocation(RevocationEndpoint):
    """Ends a token; with a refresh token, the whole login (RFC 7009)."""

    server: CheckinServer

    CLIENT_AUTH_METHODS = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return self.server.memory.of_refresh_token(token_string) or self.server.memory.of_access_token(token_string)

    def revoke_token(self, token: Token, request: Any) -> None:
        ends_login = self.server.controls.settings.revoking_ends_logins
        self.server.memory.revoke(request.form["token"], ends_login=ends_login)


class AccessTokens(BearerTokenValidator):
    """The access tokens that were handed out here."""

    def __init__(self, memory: Memory, controls: Controls) -> None:
        super().__init__()
        self._memory = memory
        self._controls = controls

    def authenticate_token(self, token_string: str) -> Token | None:
        return usable(self._memory.of_access_token(token_string), self._controls)


def usable(token: Token | None, controls: Controls) -> Token | None:
    """The token, unless its person's account is none any more or it has expired."""
    if token is None or token.is_expired() or controls.standing_of(token.person) is Standing.INACTIVE:
        return None
    return token


def identity_and_memberships(person: Person, scope: str, controls: Controls) -> UserInfo:
    """Who the person is and their groups: for userinfo and introspection. A claim without values is left out, as at Check-in."""
    claims = identity(person, scope)
    released = controls.released(person)
    for claim in ("eduperson_entitlement", "entitlements"):
        values: tuple[str, ...] = getattr(released, claim)
        if claim in scope.split() and values:
            claims[claim] = list(values)
    return claims
