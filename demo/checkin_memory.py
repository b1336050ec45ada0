"""What the stand-in for Check-in remembers while it runs: the applications that may ask, codes and tokens.

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

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):
    """An application that tokens are given to. One may ask: the hub."""

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
        return grant_type in {"authorization_code", "refresh_token", TOKEN_EXCHANGE}


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
    family: str
    """The login that it goes back to: all of a family end together."""
    audience: tuple[str, ...]
    login_scope: str = ""
    """Of its refresh token: what may be asked for with it, however little is asked for in between (RFC 6749, 6)."""

    def check_client(self, client: ClientMixin) -> bool:
        return client is self.client

    def get_scope(self) -> str:
        return self.scope

    def get_expires_in(self) -> int:
        return self.expires_in

    def is_expired(self) -> bool:
        return time.time() >= self.issued_at + self.expires_in

    def is_revoked(self) -> bool:
        """No: one that was revoked is not found."""
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
        self._nonces: list[str] = []
        self._by_access_token: dict[str, Token] = {}
        self._by_refresh_token: dict[str, Token] = {}
        self._used_refresh_tokens: set[str] = set()
        self._ended_families: set[str] = set()

    def add_code(self, code: str, meaning: AuthorizationCode) -> None:
        with self._lock:
            self._codes[code] = meaning
            if meaning.nonce:
                self._nonces.append(meaning.nonce)

    def take_code(self, code: str) -> AuthorizationCode | None:
        """What the code stands for, once: asking uses it up, whatever comes of the request."""
        with self._lock:
            meaning = self._codes.pop(code, None)
        return meaning if meaning and time.time() < meaning.issued_at + CODE_SECONDS else None

    def has_nonce(self, nonce: str) -> bool:
        with self._lock:
            return any(code.nonce == nonce for code in self._codes.values())

    def nonce_before(self, nonce: str) -> str:
        """The nonce of the login before that of this one. Raises `LookupError` where it is the first."""
        with self._lock:
            position = self._nonces.index(nonce)
            if position == 0:
                raise LookupError("There was no login before.")
            return self._nonces[position - 1]

    def add_token(self, token: Token) -> None:
        with self._lock:
            self._by_access_token[token.access_token] = token
            if token.refresh_token:
                self._by_refresh_token[token.refresh_token] = token

    def of_access_token(self, text: str) -> Token | None:
        """None for one that was revoked; one that has expired is still found."""
        return self._unless_ended(self._by_access_token.get(text))

    def of_refresh_token(self, text: str) -> Token | None:
        """None for one that was revoked or used up."""
        return None if text in self._used_refresh_tokens else self._unless_ended(self._by_refresh_token.get(text))

    def _unless_ended(self, token: Token | None) -> Token | None:
        return None if token is None or token.family in self._ended_families else token

    def use_refresh_token(self, text: str, *, up: bool) -> Token | None:
        """For a refresh; ``up``: it works once. One that was used up and comes back ends its family (RFC 9700, 4.14.2)."""
        with self._lock:
            token = self._unless_ended(self._by_refresh_token.get(text))
            if token is None:
                return None
            if text in self._used_refresh_tokens:
                self._ended_families.add(token.family)
                return None
            if up:
                self._used_refresh_tokens.add(text)
            return token

    def revoke(self, text: str, *, ends_login: bool = False) -> None:
        """An access token alone, unless ``ends_login``; with a refresh token, all of its family."""
        with self._lock:
            if text in self._by_refresh_token:
                self._ended_families.add(self._by_refresh_token[text].family)
            elif ends_login and text in self._by_access_token:
                self._ended_families.add(self._by_access_token[text].family)
            else:
                self._by_access_token.pop(text, None)

    def end_families_of(self, person: Person) -> None:
        """All tokens of a person, as where an administrator ends their sessions."""
        with self._lock:
            tokens = self._by_access_token.values()
            self._ended_families.update(token.family for token in tokens if token.person == person)

    def end_refreshing_of(self, person: Person) -> None:
        """The person's refresh tokens; access tokens work until they expire."""
        with self._lock:
            self._by_refresh_token = {
                text: token for text, token in self._by_refresh_token.items() if token.person != person
            }
