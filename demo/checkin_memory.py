"""What the stand-in for Check-in remembers while it runs: the application that may ask, codes and tokens.

In memory and nowhere else. Nothing here speaks the protocol or answers a request; the shapes are those that authlib
asks of its models.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin

from demo.people import Person

SCOPES = (
    "openid",
    "profile",
    "email",
    "voperson_id",
    "eduperson_entitlement",
    "entitlements",
    "offline_access",
)

CODE_SECONDS = 60
"""How long an authorization code may be used."""


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):
    """The one application that may ask: the hub."""

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uris: tuple[str, ...]
    client_metadata: dict[str, Any] = field(default_factory=dict)
    id_token_signed_response_alg: str = "RS256"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        """None: whoever asks has to name it."""

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(name for name in (scope or "").split() if name in SCOPES)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self.client_secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in {"client_secret_basic", "client_secret_post"}

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"authorization_code", "refresh_token"}


@dataclass(frozen=True, slots=True)
class AuthorizationCode(AuthorizationCodeMixin):
    """What one authorization code stands for."""

    person: Person
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str
    code_challenge_method: str
    issued_at: int

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.issued_at

    def get_acr(self) -> None:
        """Not told."""

    def get_amr(self) -> None:
        """Not told."""


@dataclass(frozen=True, slots=True)
class Token(TokenMixin):
    """One token response, with its refresh token where there is one."""

    person: Person
    client: Client
    scope: str
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    issued_at: int
    expires_in: int

    def check_client(self, client: ClientMixin) -> bool:
        return client is self.client

    def get_scope(self) -> str:
        return self.scope

    def get_expires_in(self) -> int:
        return self.expires_in

    def is_expired(self) -> bool:
        return time.time() >= self.issued_at + self.expires_in

    def is_revoked(self) -> bool:
        return False

    def get_user(self) -> Person:
        return self.person

    def get_client(self) -> Client:
        return self.client


class Memory:
    """Codes and tokens, for as long as the stand-in runs. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[str, AuthorizationCode] = {}
        self._by_access_token: dict[str, Token] = {}
        self._by_refresh_token: dict[str, Token] = {}

    def add_code(self, code: str, meaning: AuthorizationCode) -> None:
        with self._lock:
            self._codes[code] = meaning

    def take_code(self, code: str) -> AuthorizationCode | None:
        """What the code stands for, once: asking uses it up, whatever comes of the request."""
        with self._lock:
            meaning = self._codes.pop(code, None)
        return meaning if meaning and time.time() < meaning.issued_at + CODE_SECONDS else None

    def has_nonce(self, nonce: str) -> bool:
        with self._lock:
            return any(code.nonce == nonce for code in self._codes.values())

    def add_token(self, token: Token) -> None:
        with self._lock:
            self._by_access_token[token.access_token] = token
            if token.refresh_token:
                self._by_refresh_token[token.refresh_token] = token

    def of_access_token(self, text: str) -> Token | None:
        return self._by_access_token.get(text)

    def of_refresh_token(self, text: str) -> Token | None:
        return self._by_refresh_token.get(text)
