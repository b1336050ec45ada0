"""The ID tokens of the stand-in for Check-in: what they hold, how they are signed, and the flaws that can be asked for.

What is checked before one is handed out is `demo.checkin_protocol`; which flaw is wanted, `demo.checkin_controls`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any, Protocol

from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode, OpenIDToken
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from demo.checkin_controls import Controls, IdTokenFlaw
from demo.checkin_memory import Client, Memory
from demo.people import Person

ID_TOKEN_SECONDS = 3600


class Signer(Protocol):
    """What of the authorization server is needed here."""

    issuer: str
    memory: Memory
    controls: Controls
    keys: SigningKeys
    client: Client


class SigningKeys:
    """The key that signs, which is the one that is published."""

    def __init__(self) -> None:
        self.current = _new_key()

    def rotate(self) -> None:
        """From now on another key signs; the one before is not published any more."""
        self.current = _new_key()

    def published(self) -> dict[str, Any]:
        """As a JSON Web Key Set (RFC 7517)."""
        return {"keys": [self.current.as_dict(private=False)]}


def _new_key() -> RSAKey:
    return RSAKey.generate_key(2048, parameters={"use": "sig", "alg": "RS256"}, private=True, auto_kid=True)


class SignedIdentity(OpenIDToken):
    """What ID tokens hold and how they are signed, wherever they are handed out."""

    def __init__(self, server: Signer) -> None:
        super().__init__()
        self.server = server

    def resolve_client_private_key(self, client: Client) -> KeySet:
        return KeySet([self.server.keys.current])

    def get_encode_header(self, client: Client) -> dict[str, str]:
        return {"alg": "RS256", "kid": str(self.server.keys.current.kid)}

    def get_client_claims(self, client: Client) -> dict[str, Any]:
        now = int(time.time()) + self.server.controls.settings.clock_skew_seconds
        return {
            "iss": self.server.issuer,
            "aud": client.client_id,
            "azp": client.client_id,
            "iat": now,
            "exp": now + ID_TOKEN_SECONDS,
            "auth_time": now,
        }

    def generate_user_info(self, user: Person, scope: str) -> UserInfo:
        return identity(user, scope)

    def process_token(self, grant: Any, response: Any) -> Any:
        token: dict[str, Any] = super().process_token(grant, response)
        flaw = self.server.controls.settings.id_token_flaw
        if flaw is IdTokenFlaw.MISSING:
            token.pop("id_token", None)
        elif flaw is not None and "id_token" in token:
            token["id_token"] = self._flawed(token["id_token"], flaw)
        return token

    def _flawed(self, text: str, flaw: IdTokenFlaw) -> str:
        key = self.server.keys.current
        signed = jwt.decode(text, key)
        claims = {**signed.claims, **self._changed_claims(signed.claims, flaw)}
        if flaw is IdTokenFlaw.NO_NONCE:
            claims.pop("nonce", None)
        header = self.get_encode_header(self.server.client)
        match flaw:
            case IdTokenFlaw.UNSIGNED:
                return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."
            case IdTokenFlaw.HMAC_OF_PUBLIC_KEY:
                signed_part = f"{_part({**header, 'alg': 'HS256'})}.{_part(claims)}"
                mac = hmac.digest(key.as_pem(private=False), signed_part.encode(), hashlib.sha256)
                return f"{signed_part}.{_base64(mac)}"
            case IdTokenFlaw.BAD_SIGNATURE:
                # By a stranger's key, under the name of ours.
                return jwt.encode(header, claims, _new_key())
            case IdTokenFlaw.UNKNOWN_KEY:
                stranger = _new_key()
                return jwt.encode({**header, "kid": str(stranger.kid)}, claims, stranger)
            case _:
                return jwt.encode(header, claims, key)

    def _changed_claims(self, claims: dict[str, Any], flaw: IdTokenFlaw) -> dict[str, Any]:
        now = int(time.time())
        match flaw:
            case IdTokenFlaw.FOREIGN_AUDIENCE:
                return {"aud": "another-client", "azp": "another-client"}
            case IdTokenFlaw.MORE_AUDIENCES:
                return {"aud": [claims["aud"], "another-client"], "azp": "another-client"}
            case IdTokenFlaw.FOREIGN_ISSUER:
                return {"iss": f"{self.server.issuer}-of-somebody-else"}
            case IdTokenFlaw.EXPIRED:
                return {"iat": now - 7200, "exp": now - 3600}
            case IdTokenFlaw.NOT_YET:
                return {"iat": now + 3600, "exp": now + 7200}
            case IdTokenFlaw.REPLAYED_NONCE:
                return {"nonce": self.server.memory.nonce_before(claims["nonce"])}
            case IdTokenFlaw.FOREIGN_SUBJECT:
                return {"sub": "somebody-else@egi.eu"}
            case _:
                return {}


class CodeIdentity(SignedIdentity, OpenIDCode):
    """The ID token of a login."""

    def exists_nonce(self, nonce: str, request: Any) -> bool:
        return self.server.memory.has_nonce(nonce)


class RefreshedIdentity(SignedIdentity):
    """The ID token that comes with a refreshed access token."""


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


def _part(content: dict[str, Any]) -> str:
    return _base64(json.dumps(content).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
