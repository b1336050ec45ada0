"""A session's access token, from what a provider's token endpoint answered: what of that may be believed and handed on.

Pure: nothing here asks, keeps or logs anything. No text made here holds the value of a token.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from replay_auth.notes import number
from replay_auth.provider import ACCESS_TOKEN_TYPE

MOST_BYTES = 900_000
"""Of a token: a Secret of Kubernetes takes 1 MiB in all."""
ASSUMED_SECONDS = 300.0
"""The life of a token of which the provider does not say how long it is."""
MOST_SECONDS = 86_400.0
"""No longer a life is believed, so that every token is renewed once in a while."""

_TOKEN = re.compile(r"[\x21-\x7e]+")
"""As RFC 6749 (A.12) has an access token, without spaces: it is one line of a file, and one word of a header."""


@dataclass(frozen=True, slots=True)
class SessionToken:
    """An access token of a session's own."""

    value: str = field(repr=False)
    expires_at: float
    """Seconds since the epoch, by the hub's clock: the provider's may be wrong."""
    scopes: tuple[str, ...]
    """What it may be used for; never more than was asked for."""


class UnusableToken(Exception):
    """A token that is not handed on. The text says why, to go after “…, because”; no login and no retry helps if final."""

    def __init__(self, reason: str, *, is_final: bool = True) -> None:
        super().__init__(reason)
        self.is_final = is_final


def session_token(
    answer: Mapping[str, object], *, asked: Sequence[str], asked_at: float, others: Collection[str]
) -> SessionToken:
    """The token of an answer (RFC 6749, 5.1; RFC 8693, 2.2.1) to a request for the scopes ``asked``.

    ``asked_at`` is in seconds since the epoch; ``others`` are tokens that are in use already. Raises `UnusableToken`.
    """
    value = answer.get("access_token")
    if not isinstance(value, str) or not value:
        raise UnusableToken("it is empty", is_final=False)
    if len(value) > MOST_BYTES:
        raise UnusableToken(f"it is longer than {MOST_BYTES // 1000} KB")
    if not _TOKEN.fullmatch(value):
        raise UnusableToken("it has spaces, line breaks or letters beyond ASCII")
    if value in others:
        raise UnusableToken("it is the hub's own")
    if answer.get("issued_token_type", ACCESS_TOKEN_TYPE) != ACCESS_TOKEN_TYPE:
        raise UnusableToken("it is of another kind than was asked for")
    if str(answer.get("token_type") or "Bearer").lower() != "bearer":
        raise UnusableToken("it is no bearer token")
    scopes = _granted(answer.get("scope"), asked)
    if more := sorted(set(scopes) - set(asked)):
        raise UnusableToken(f"it is good for more than was asked for ({', '.join(more)[:200]})")
    seconds = lifetime(answer)
    if seconds is not None and seconds <= 0:
        raise UnusableToken("it had expired already", is_final=False)
    life = ASSUMED_SECONDS if seconds is None else min(seconds, MOST_SECONDS)
    return SessionToken(value, asked_at + life, scopes)


def lifetime(answer: Mapping[str, object]) -> float | None:
    """How long the token is good, in seconds; None where the answer does not say so in a number."""
    return number(answer.get("expires_in"))


def _granted(scope: object, asked: Sequence[str]) -> tuple[str, ...]:
    if scope is None:
        return tuple(asked)  # what is left out is what was asked for (RFC 6749, 5.1)
    if not isinstance(scope, str):
        raise UnusableToken("what it is good for cannot be read", is_final=False)
    return tuple(scope.split())
