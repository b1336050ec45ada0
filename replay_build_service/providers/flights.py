"""One request for all who ask the same at the same time, as every provider asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from cachetools import TTLCache

from replay_build_service.errors import ReplayError, SourceFault

__all__ = ["DOUBT_AFTER", "MAX_ASKED_AT_ONCE", "SingleFlight"]

logger = logging.getLogger(__name__)

DOUBT_AFTER = 2.0
"""Seconds for which an error is believed, and the age of a list of refs from which a ref that it lacks is asked for again."""
MAX_ASKED_AT_ONCE = 50
"""Questions of one provider at one time; more wait."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class SingleFlight(Generic[_Key, _Value]):
    """One request for all who ask the same at the same time; nobody's leaving ends it for the others."""

    def __init__(
        self,
        ask: Callable[[_Key], Awaitable[_Value]],
        tasks: asyncio.TaskGroup,
        limit: asyncio.Semaphore,
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._tasks = tasks
        self._limit = limit
        self._flights: dict[_Key, asyncio.Task[_Value | Exception]] = {}
        self._errors: TTLCache[_Key, Exception] = TTLCache(1_000, DOUBT_AFTER, clock)

    async def get(self, key: _Key) -> _Value:
        """The answer. Raises what asking raised, and `SourceFault` where the service ends before there is one."""
        answer = self._errors.get(key)
        if answer is None:
            flight = self._flights.get(key) or self._start(key)
            await asyncio.wait({flight})
            if flight.cancelled():
                raise SourceFault("Replay is being restarted. Try again in a moment.")
            answer = flight.result()
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        return answer

    def _start(self, key: _Key) -> asyncio.Task[_Value | Exception]:
        asking = self._outcome(key)
        try:
            flight = self._tasks.create_task(asking)
        except RuntimeError as error:  # the group has ended, or is about to
            asking.close()
            raise SourceFault("Replay is being restarted. Try again in a moment.") from error
        self._flights[key] = flight
        flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight

    async def _outcome(self, key: _Key) -> _Value | Exception:
        # An exception that left this task would end the whole group, so it is a result like any other.
        try:
            async with self._limit:
                return await self._ask(key)
        except Exception as error:
            if not isinstance(error, ReplayError):
                logger.exception("asking for %r failed", key)
            self._errors[key] = error
            return error
