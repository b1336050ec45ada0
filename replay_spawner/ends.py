"""Sessions that ended by themselves: why, in a sentence for their person, and how the service comes to know it."""

import asyncio
import logging
from typing import Any

from cachetools import LRUCache

from replay_build_service.client import ReplayClient, ServiceUnavailable
from replay_build_service.schemas import MOST_REASON, EndedReport
from replay_spawner.answers import size_of

KILLED = 137
"""128 + SIGKILL, which is what the kernel sends to what takes too much memory."""

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0)
"""Seconds before each further try: a service that starts anew, and one that does not know yet that the launch runs."""

MOST_TOLD = 10_000
"""Launches of which is remembered that their end was told."""

_LOST = "What was not saved elsewhere is gone. You can launch the same again."


def out_of_memory(limit: int | None) -> str:
    """For a session whose memory ran out; ``limit`` in bytes."""
    at_most = "" if limit is None else f": it may use at most {size_of(limit)}"
    return (
        f"The session ran out of memory, so it was ended{at_most}. {_LOST} Load less data at once, or ask a manager of "
        "your virtual organisation for more memory."
    )


def by_status(status: object, *, was_out_of_memory: bool = False, limit: int | None = None) -> str | None:
    """For a session whose server ended with that status; none where it was shut down from inside, as JupyterLab can.

    ``was_out_of_memory`` is what the engine says, which may mean another process of the session: the server itself died of
    it only where it was killed.
    """
    if status == 0:
        return None
    if status == KILLED and was_out_of_memory:
        return out_of_memory(limit)
    if status == KILLED:
        return f"The session's server was killed, as happens where the machine itself runs out of memory. {_LOST}"
    return f"The session's server ended by itself, with status {status}. {_LOST}"


def vanished(what: str) -> str:
    """For a session whose container or pod is gone, and nobody asked for that here."""
    return f"The session's {what} was removed, and not by this hub. {_LOST}"


def of_the_cluster(sentence: str) -> str:
    """For a session that the cluster ended; ``sentence`` says why."""
    return f"{sentence} {_LOST}"


class Ends:
    """Ends on their way to the service. Its tasks end with the hub's loop."""

    def __init__(self) -> None:
        self.log: Any = logging.getLogger(__name__)
        self._told: LRUCache[str, bool] = LRUCache(MOST_TOLD)
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, client: ReplayClient, launch: str, sentence: str) -> None:
        """Have the service told, once for each launch, however often this is asked for. Waits for nothing."""
        if launch in self._told:
            return
        self._told[launch] = True
        task = asyncio.get_running_loop().create_task(self._until_told(client, launch, sentence))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_told(self, client: ReplayClient, launch: str, sentence: str) -> None:
        report = EndedReport(launch=launch, reason=sentence[:MOST_REASON])
        for wait in (*WAITS, None):
            try:
                return await client.ended(report)
            except ServiceUnavailable as error:
                if wait is None:
                    self.log.error("Nobody could be told why launch %s ended (%s): %s", launch, error, sentence)
                    return None
                self.log.info("The end of launch %s is told again in %g seconds: %s", launch, wait, error)
            await asyncio.sleep(wait)
        return None
