"""What all sources of figures say, in one shape."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum

ASK_SECONDS = 2.0
"""For all figures of one session."""


class UsageSource(StrEnum):
    """Who tells the figures."""

    PROCESS = "process"
    ENGINE = "engine"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session uses at one moment, of what."""

    source: UsageSource
    memory_used: int
    """Bytes, without what the kernel keeps of files and would give back."""
    memory_limit: int | None = None
    """Bytes; of each process by itself where the source is `UsageSource.PROCESS`. None for no limit."""
    cpu_used: float | None = None
    """Cores, over the last moment; none where that is not known."""
    cpu_limit: float | None = None
    """Cores; none for no limit."""
    oom_kills: int | None = None
    """How many of its processes were ended because its memory had run out; none where the source does not count them."""


async def within_time(figures: Awaitable[Usage | None]) -> Usage | None:
    """The figures, or none where they do not come in time."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await figures
    except TimeoutError:
        return None
