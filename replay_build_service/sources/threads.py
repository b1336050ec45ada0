"""Blocking work of a fetch, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_thread"]

_Result = TypeVar("_Result")


async def in_thread(work: Callable[[], _Result], when_cancelled: Callable[[], object] = lambda: None) -> _Result:
    """The result of blocking work.

    A thread cannot be cancelled, so whoever is waits until it has ended, and may then remove what it worked on.
    ``when_cancelled`` tells it to end sooner.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        when_cancelled()
        while not working.done():
            try:
                await asyncio.wait({working})
            except asyncio.CancelledError:
                continue  # once more, which changes nothing
        if not working.cancelled():
            working.exception()  # it was not wanted any more
        raise
