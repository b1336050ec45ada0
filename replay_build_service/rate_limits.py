"""Until when which host is not to be asked, as it has said itself.

A host that says how many requests it still takes (``RateLimit-Remaining``, ``X-RateLimit-Remaining``) or that it takes none for a while
(429, 503 with ``Retry-After``, https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3) is believed: until then it is not asked again, and
people are told when it will be. This room reads what answers say, and asks nobody.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from replay_build_service.errors import SourceFault

__all__ = ["LONGEST_PAUSE", "SHORT_PAUSE", "RateLimits", "asked_too_often"]

LONGEST_PAUSE = 3600.0
"""Seconds for which a host's word that it takes no requests is believed."""
SHORT_PAUSE = 2.0
"""Seconds that a question waits for a host to take requests again, before people are told."""


class RateLimits:
    """Until when which host is not asked, as it has said itself. One for all that ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self.remaining: dict[str, int] = {}
        """How many more requests each host takes, as it last said."""

    def seconds_left(self, host: str) -> float:
        """Until that host may be asked again; 0 where it may be."""
        return max(0.0, self._until.get(host, 0.0) - self._clock())

    def note(self, host: str, response: httpx.Response) -> None:
        """What an answer says of the requests that its host takes."""
        headers = response.headers
        left = _number(headers.get("RateLimit-Remaining") or headers.get("X-RateLimit-Remaining"))
        if left is not None:
            self.remaining[host] = int(left)
        if response.status_code in {429, 503} or (response.status_code == 403 and left == 0):
            pause = _pause(headers) or (SHORT_PAUSE if response.status_code == 503 else 60.0)
        elif left == 0:
            pause = _pause(headers) or 1.0
        else:
            return
        # What was on its way when the host said so says less than that.
        self._until[host] = max(self._until.get(host, 0.0), self._clock() + min(pause, LONGEST_PAUSE))

    async def when_allowed(self, host: str) -> None:
        """Returns when that host may be asked, where that is soon. Raises `SourceFault` where it is not."""
        left = self.seconds_left(host)
        if left > SHORT_PAUSE:
            raise asked_too_often(host, left)
        await asyncio.sleep(left)


def asked_too_often(host: str, seconds: float) -> SourceFault:
    """What people are told of a host that takes no requests for so many seconds."""
    wait = f"{math.ceil(seconds / 60)} minutes" if seconds > 90 else f"{math.ceil(seconds)} seconds"
    return SourceFault(f"{host} takes no more questions for now. Try again in {wait}.")


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and number >= 0 else None


def _pause(headers: httpx.Headers) -> float | None:
    """Seconds until a host takes requests again, by what it says in one of three ways."""
    after = headers.get("Retry-After")
    if (seconds := _number(after)) is not None:
        return seconds
    if after is not None:
        try:
            return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            pass
    reset = _number(headers.get("RateLimit-Reset") or headers.get("X-RateLimit-Reset"))
    if reset is None:
        return None
    # Some say how long, others when (https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/).
    return reset if reset < 10_000_000 else max(0.0, reset - time.time())
