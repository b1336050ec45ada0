"""The protocol of the stand-in for Check-in: authlib's OpenID Connect, over our memory and our people.

Like Check-in, it insists on PKCE, releases memberships in userinfo and introspection only, and gives a refresh token
to whoever asks for ``offline_access``. Addresses, pages and sockets are no business of this room.
"""

from __future__ import annotations

import time
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import InvalidRequestError, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.core import UserInfo, UserInfoEndpoint
from authlib.oidc.core.grants import OpenIDCode, OpenIDToken
from flask import Flask
from joserfc.jwk import KeySet, RSAKey

from demo.checkin_memory import AuthorizationCode, Client, Memory, Token
from demo.people import Person

__all__ = ["CheckinServer"]

ACCESS_TOKEN_SECONDS = 3600


class CheckinServer(AuthorizationServer):
    """authlib's server over our memory, with a signing key of its own."""

    def __init__(self, app: Flask, *, issuer: str, client: Client, memory: Memory) -> None:
        self.issuer = issuer
        self.memory = memory
        self.key = RSAKey.generate_key(2048, parameters={"use": "sig", "alg": "RS256"}, private=True, auto_kid=True)
        self._client = client
        app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
        lifetimes = dict.fromkeys(("authorization_code", "refresh_token"), ACCESS_TOKEN_SECONDS)
        app.config["OAUTH2_TOKEN_EXPIRES_IN"] = lifetimes
        super().__init__(app)
        protector = ResourceProtector()
        protector.register_token_validator(AccessTokens(memory))
        self.register_grant(CodeGrant, [RequiredS256(required=True), CodeIdentity(self)])
        self.register_grant(RefreshGrant, [RefreshedIdentity(self)])
        self.register_endpoint(Userinfo(resource_protector=protector))
        self.register_endpoint(Introspection)

    def query_client(self, client_id: str) -> Client | None:
        return self._client if client_id == self._client.client_id else None

    def save_token(self, token: dict[str, Any], request: Any) -> None:
        self.memory.add_token(
            Token(
                person=request.user,
                client=request.client,
                scope=token.get("scope", ""),
                access_token=token["access_token"],
                refresh_token=token.get("refresh_token"),
                issued_at=int(time.time()),
                expires_in=token["expires_in"],
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
        return self.server.memory.of_refresh_token(refresh_token)

    def authenticate_user(self, refresh_token: Token) -> Person:
        return refresh_token.person

    def revoke_old_credential(self, refresh_token: Token) -> None:
        """The refresh token stays as it is; the access tokens that it gave run out."""


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


class SignedIdentity:
    """What ID tokens hold and how they are signed, wherever they are handed out."""

    def __init__(self, server: CheckinServer) -> None:
        super().__init__()
        self.server = server

    def resolve_client_private_key(self, client: Client) -> KeySet:
        return KeySet([self.server.key])

    def get_encode_header(self, client: Client) -> dict[str, str]:
        return {"alg": "RS256", "kid": str(self.server.key.kid)}

    def get_client_claims(self, client: Client) -> dict[str, Any]:
        return {"iss": self.server.issuer, "aud": client.client_id}

    def generate_user_info(self, user: Person, scope: str) -> UserInfo:
        return identity(user, scope)


class CodeIdentity(SignedIdentity, OpenIDCode):
    """The ID token of a login."""

    def exists_nonce(self, nonce: str, request: Any) -> bool:
        return self.server.memory.has_nonce(nonce)


class RefreshedIdentity(SignedIdentity, OpenIDToken):
    """The ID token that comes with a refreshed access token."""


class Userinfo(UserInfoEndpoint):
    """Who the person of an access token is, with their memberships."""

    def generate_user_info(self, user: Person, scope: str) -> UserInfo:
        return identity_and_memberships(user, scope)


class Introspection(IntrospectionEndpoint):
    """What a token of this application is good for, with the memberships of its person."""

    server: CheckinServer

    CLIENT_AUTH_METHODS = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return self.server.memory.of_access_token(token_string) or self.server.memory.of_refresh_token(token_string)

    def check_permission(self, token: Token, client: Client, request: Any) -> bool:
        return token.client is client

    def introspect_token(self, token: Token) -> dict[str, Any]:
        described = {
            "iss": self.server.issuer,
            "client_id": token.client.client_id,
            "scope": token.scope,
            "exp": token.issued_at + token.expires_in,
        }
        return {**described, **identity_and_memberships(token.person, token.scope)}


class AccessTokens(BearerTokenValidator):
    """The access tokens that were handed out here."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    def authenticate_token(self, token_string: str) -> Token | None:
        return self._memory.of_access_token(token_string)


def identity(person: Person, scope: str) -> UserInfo:
    """Who the person is: what an ID token may hold."""
    wanted = scope.split()
    claims = UserInfo(sub=person.voperson_id)
    if "profile" in wanted:
        claims |= {
            "name": person.name,
            "given_name": person.given_name,
            "family_name": person.family_name,
            "preferred_username": person.preferred_username,
        }
    if "email" in wanted:
        claims |= {"email": person.email, "email_verified": True}
    if "voperson_id" in wanted:
        claims["voperson_id"] = person.voperson_id
    return UserInfo(claims)


def identity_and_memberships(person: Person, scope: str) -> UserInfo:
    """The same and the groups: for userinfo and introspection. A claim without values is left out, as at Check-in."""
    claims = identity(person, scope)
    for claim in ("eduperson_entitlement", "entitlements"):
        values: tuple[str, ...] = getattr(person, claim)
        if claim in scope.split() and values:
            claims[claim] = list(values)
    return claims
