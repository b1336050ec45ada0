"""Whether an ID token is the provider's, for this hub and for this login: OpenID Connect Core 1.0, section 3.1.3.7.

It comes over the connection to the token endpoint, for which TLS vouches; it is checked all the same, since it says who
somebody is. This room makes no request itself and knows no settings of the hub: it is handed the way to fetch keys.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jwt

KEYS_SECONDS = 3600
"""So long are the provider's keys believed before they are read again: one that was withdrawn is not good for longer."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a private key of the provider's. Never ``none``, nor one with a secret that others know."""


class UnacceptableIdToken(Exception):
    """Why an ID token says nothing about anybody; for the log."""


@dataclass(frozen=True, slots=True)
class _Keys:
    by_id: Mapping[str | None, jwt.PyJWK]
    read_at: float
    """Seconds of `time.monotonic`."""


class SigningKeys:
    """The provider's public keys. Any number of callers share one reading; one that failed is not remembered.

    ``fetch`` gets the JSON Web Key Set (RFC 7517), and raises what it raises.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Mapping[str, object]]]) -> None:
        self._fetch = fetch
        self._known: _Keys | None = None
        self._lock = asyncio.Lock()

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """The key of that id; without an id, the only one. Keys are read again, once, for an id that is not known.

        Raises `UnacceptableIdToken` where there is none.
        """
        known = self._known
        if known is None or time.monotonic() > known.read_at + KEYS_SECONDS:
            known = await self._read(instead_of=known)
        if (found := _found(known, key_id)) is None:
            found = _found(await self._read(instead_of=known), key_id)
        if found is None:
            raise UnacceptableIdToken(
                f"it is signed with the key {str(key_id)[:100]!r}, which the provider does not publish"
            )
        return found

    async def _read(self, *, instead_of: _Keys | None) -> _Keys:
        async with self._lock:
            if self._known is not None and self._known is not instead_of:
                return self._known  # somebody else has read them meanwhile
            document = await self._fetch()
            self._known = _Keys(_signing_keys(document), time.monotonic())
            return self._known


def _found(keys: _Keys, key_id: str | None) -> jwt.PyJWK | None:
    if key_id is None:
        return next(iter(keys.by_id.values())) if len(keys.by_id) == 1 else None
    return keys.by_id.get(key_id)


def _signing_keys(document: Mapping[str, object]) -> dict[str | None, jwt.PyJWK]:
    try:
        keys = jwt.PyJWKSet.from_dict(cast("dict[str, Any]", document)).keys
    except (jwt.PyJWTError, TypeError, AttributeError) as error:
        raise UnacceptableIdToken(f"the provider's keys cannot be read: {error}") from error
    return {key.key_id: key for key in keys if key.public_key_use in {None, "sig"} and key.key_type != "oct"}


class IdTokens:
    """Verifies ID tokens of one issuer for one client.

    ``leeway`` is how far the clocks of provider and hub may be apart, in seconds.
    """

    def __init__(
        self, keys: SigningKeys, *, issuer: str, client_id: str, algorithms: Sequence[str], leeway: float
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._client_id = client_id
        self._algorithms = [name for name in algorithms if name in ALGORITHMS]
        self._leeway = leeway

    async def verified(self, text: object, *, nonce: str | None) -> Mapping[str, object]:
        """The claims. ``nonce``: what the login sent; None for a token that no login asked for, as at a refresh.

        Raises `UnacceptableIdToken` with the reason, and what fetching the keys raises.
        """
        if not isinstance(text, str):
            raise UnacceptableIdToken("there is none")
        try:
            header = jwt.get_unverified_header(text)
        except jwt.PyJWTError as error:
            raise UnacceptableIdToken(f"it cannot be read: {error}") from error
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise UnacceptableIdToken(f"its algorithm is {str(algorithm)[:40]!r}")
        key = await self._keys.key(header.get("kid"))
        claims = self._decoded(text, key)
        self._check_party(claims)
        if nonce is not None and not _equal(claims.get("nonce"), nonce):
            raise UnacceptableIdToken("its nonce is not that of this login")
        return claims

    def _decoded(self, text: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            return jwt.decode(
                text,
                key,
                algorithms=self._algorithms,
                audience=self._client_id,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except (
            jwt.PyJWTError,
            ArithmeticError,
            TypeError,
            ValueError,
        ) as error:  # PyJWT lets some pass, of odd numbers
            raise UnacceptableIdToken(f"it is not valid: {error}") from error

    def _check_party(self, claims: Mapping[str, object]) -> None:
        audience = claims["aud"]
        party = claims.get("azp")
        if isinstance(audience, list) and len(cast("list[object]", audience)) > 1 and party is None:
            raise UnacceptableIdToken("it is for several applications and does not say which it was issued to")
        if party is not None and party != self._client_id:
            raise UnacceptableIdToken(f"it was issued to {str(party)[:100]!r}")


def _equal(found: object, wanted: str) -> bool:
    return isinstance(found, str) and hmac.compare_digest(found.encode(errors="surrogatepass"), wanted.encode())
