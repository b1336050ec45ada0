"""Containers of sessions that have ended: removed now, or once the engine answers again."""

import asyncio
import logging
import time
from typing import Any

from docker.errors import APIError, NotFound

from replay_spawner.docker.containers import container_name
from replay_spawner.docker.engine import ENGINE_FAULTS, Engine
from replay_spawner.plans import LAUNCH_LABEL

REMOVE_SECONDS = 10.0
"""For one removal while somebody waits; it goes on without them."""

AGAIN_SECONDS = 5.0
"""Between two tries of what could not be removed."""

SWEEP_SECONDS = 3600.0
"""Between two looks for what nobody removed, and the least age of that."""


class Leftovers:
    """What is still to be removed, of all sessions of this hub. Its tasks end with the hub's loop."""

    def __init__(self, log: Any = None) -> None:
        self.log = log or logging.getLogger(__name__)
        self._names: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._sweep: asyncio.Task[None] | None = None
        self._swept = -SWEEP_SECONDS

    async def remove(self, engine: Engine, name: str) -> None:
        """Kill and remove a container with its anonymous volumes, whether it is there or not; raises nothing.

        Where the engine does not answer, this returns, and it is tried again until it does.
        """
        if not await self._removed(engine, name):
            self.add(engine, name)

    def add(self, engine: Engine, name: str) -> None:
        """Have a container removed in a while, and again until the engine says that it is gone."""
        self._names.add(name)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._until_gone(engine))

    async def _until_gone(self, engine: Engine) -> None:
        while self._names:
            await asyncio.sleep(AGAIN_SECONDS)
            for name in sorted(self._names):
                if await self._removed(engine, name):
                    self._names.discard(name)

    async def _removed(self, engine: Engine, name: str) -> bool:
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                await engine("remove_container", name, v=True, force=True)
        except NotFound:
            return True
        except APIError as error:
            if error.status_code == 409:  # its removal is under way
                return True
            self.log.error("The engine did not remove %s, which is tried again: %s", name, error)
            return False
        except ENGINE_FAULTS as error:
            self.log.warning("The engine does not answer, so %s is removed later: %r", name, error)
            return False
        return True

    def sweep(self, engine: Engine) -> None:
        """Look in the background, at most once in an hour, for sessions that ended while no hub could remove them."""
        if time.monotonic() - self._swept >= SWEEP_SECONDS:
            self._swept = time.monotonic()
            self._sweep = asyncio.get_running_loop().create_task(self._sweep_now(engine))

    async def _sweep_now(self, engine: Engine) -> None:
        ended = {"label": LAUNCH_LABEL, "status": ["created", "exited", "dead"]}
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                found: list[dict[str, Any]] = await engine("containers", all=True, filters=ended)
        except ENGINE_FAULTS as error:
            self.log.warning("The engine does not tell its containers: %r", error)
            return
        for container in found:
            # An image can have our label, and then what others run from it has it too; the name it cannot have.
            name = container_name(container["Labels"][LAUNCH_LABEL])
            if f"/{name}" in container["Names"] and container["Created"] < time.time() - SWEEP_SECONDS:
                self.log.warning("Removing %s, which nobody has removed", name)
                await self.remove(engine, name)
