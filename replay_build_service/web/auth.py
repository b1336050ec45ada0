"""Who is asking: the hub's OAuth for browsers, tokens for programs, and limits on how often.

The state of a login under way (where to go next, the PKCE verifier) travels encrypted in the login itself, so that it
survives a restart of the service and may come back to another replica.
"""

import base64
import json
import time
import zlib
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from cachetools import TTLCache
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jupyterhub.services.auth import HubOAuth
from tornado import web

from replay_build_service.domain import Person

MOST_STATE = 1200
"""Characters of a state. It comes twice in a cookie's encodings on its way through the hub's own login, and no browser
keeps a cookie of more than 4096 bytes."""


class StatelessHubOAuth(HubOAuth):
    """`HubOAuth` that keeps no login state in memory: the state is its own encrypted record."""

    _box: Fernet

    def set_secret(self, cookie_secret: bytes) -> None:
        """Derive the key from the cookie secret, which all replicas share."""
        key = HKDF(hashes.SHA256(), length=32, salt=None, info=b"replay oauth state").derive(cookie_secret)
        self._box = Fernet(base64.urlsafe_b64encode(key))

    def generate_state(self, next_url: str | None = None, **extra_state: Any) -> str:
        """An opaque state that only this service can read."""
        state = self._sealed({"next_url": next_url, **extra_state})
        # Who came with a link that is too long for it lands on the home page.
        return state if len(state) <= MOST_STATE else self._sealed({"next_url": None, **extra_state})

    def _sealed(self, state: dict[str, Any]) -> str:
        return self._box.encrypt(zlib.compress(json.dumps(state).encode(), 9)).decode()

    def _decode_state(self, state_id: str | bytes, /) -> dict[str, Any]:
        token = state_id if isinstance(state_id, bytes) else state_id.encode("ascii", "replace")
        try:
            return json.loads(zlib.decompress(self._box.decrypt(token, ttl=self.oauth_state_max_age)))
        except InvalidToken:
            raise web.HTTPError(
                403, "This login took too long, or it was not begun here. Open the link again to log in."
            ) from None

    def clear_oauth_state(self, state_id: str | bytes) -> None:
        """Nothing is kept, so there is nothing to clear; the cookie that must match the state is cleared by the caller."""


def person_of(model: dict[str, Any]) -> Person:
    """The hub's user model as the core knows people."""
    return Person(model["name"], frozenset(model.get("groups") or ()))


class RateLimit:
    """So many requests in so many seconds for each person; in memory, so for each process."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._seen: TTLCache[str, deque[float]] = TTLCache(maxsize=100_000, ttl=seconds)

    def take(self, name: str) -> None:
        """Count one request. Raises 429 with the time to wait where there were too many."""
        now = time.monotonic()
        times = self._seen.get(name) or deque[float]()
        while times and times[0] <= now - self._seconds:
            times.popleft()
        if len(times) >= self._most:
            wait = max(1, round(times[0] + self._seconds - now))
            raise web.HTTPError(429, f"Too many requests from you. Try again in {wait} seconds.")
        times.append(now)
        self._seen[name] = times


class AtOnce:
    """So many of something at the same time for each person; in memory, so for each process."""

    def __init__(self, most: int, told: str = "") -> None:
        self._most = most
        self._told = told or (
            f"You follow {most} launches or builds already. Close some of their pages, then try again."
        )
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, name: str) -> Generator[None]:
        """Hold one in here. Raises 429 with what to do where there are too many."""
        if self._held.get(name, 0) >= self._most:
            raise web.HTTPError(429, self._told)
        self._held[name] += 1
        try:
            yield
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]
