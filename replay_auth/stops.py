"""Servers that have to stop, with places of their own: so many at a time, and each one once at a time.

Whoever is told to stop a server may wait for it, for as long as the hub does; asking about others does not wait behind that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable


class ServerStops:
    """Calls ``stop`` with a person's id and the name of a server; it does not raise. Owns the tasks in which that runs."""

    def __init__(self, stop: Callable[[int, str], Awaitable[None]], *, most: int) -> None:
        self._stop = stop
        self._most = most
        self._waiting: dict[tuple[int, str], None] = {}
        """In order. As bounded as the hub's servers are."""
        self._running: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._of_people: Counter[int] = Counter()

    def ask_for(self, user_id: int, server: str) -> None:
        """Stop it as soon as there is a place, unless that is going on or waits already."""
        key = (user_id, server)
        if key in self._running or key in self._waiting:
            return
        self._waiting[key] = None
        self._of_people[user_id] += 1
        self._fill()

    def are_asked_for(self, user_id: int) -> bool:
        """Whether servers of this person are being stopped or wait for that."""
        return self._of_people[user_id] > 0

    def cancel(self) -> list[asyncio.Task[None]]:
        """Begin no more, and end what runs; returns the tasks to wait for."""
        self._waiting.clear()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        return running

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._most:
            key = next(iter(self._waiting))
            del self._waiting[key]
            task = asyncio.get_running_loop().create_task(self._run(*key), name=f"stop of a server of user {key[0]}")
            self._running[key] = task
            task.add_done_callback(lambda _, key=key: self._ended(key))

    async def _run(self, user_id: int, server: str) -> None:
        await self._stop(user_id, server)

    def _ended(self, key: tuple[int, str]) -> None:
        self._running.pop(key, None)
        self._of_people[key[0]] -= 1
        if not self._of_people[key[0]]:
            del self._of_people[key[0]]
        self._fill()
