"""Who is asking: the hub's OAuth for browsers, tokens for programs, and limits on how often.

The state of a login under way (where to go next, the PKCE verifier) travels encrypted in the login itself, so that it
survives a restart of the service and may come back to another replica.
"""

import base64
import json
import logging
import time
import zlib
from collections import deque
from typing import Any

from cachetools import TTLCache
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jupyterhub.services.auth import HubOAuth
from tornado import web

from replay_build_service.domain import Person

log = logging.getLogger(__name__)

_MOST_NEXT_URL = 8000
"""Characters of a state before it is encrypted; a longer one would not fit a cookie."""


class StatelessHubOAuth(HubOAuth):
    """`HubOAuth` that keeps no login state in memory: the state is its own encrypted record."""

    _box: Fernet

    def set_secret(self, cookie_secret: bytes) -> None:
        """Derive the key from the cookie secret, which all replicas share."""
        key = HKDF(hashes.SHA256(), length=32, salt=None, info=b"replay oauth state").derive(cookie_secret)
        self._box = Fernet(base64.urlsafe_b64encode(key))

    def generate_state(self, next_url: str | None = None, **extra_state: Any) -> str:
        """An opaque state that only this service can read."""
        text = json.dumps({"next_url": next_url, **extra_state})
        if len(text) > _MOST_NEXT_URL:
            text = json.dumps({"next_url": None, **extra_state})
        return self._box.encrypt(zlib.compress(text.encode(), 9)).decode()

    def _decode_state(self, state_id: str | bytes, /) -> dict[str, Any]:
        token = state_id if isinstance(state_id, bytes) else state_id.encode("ascii", "replace")
        try:
            return json.loads(zlib.decompress(self._box.decrypt(token, ttl=self.oauth_state_max_age)))
        except InvalidToken:
            log.info("A login came back with a state that is too old or not ours")
            return {}

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
