"""Containers of sessions that have ended: removed now, or once the engine answers again; and those that nobody has removed."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from docker.errors import APIError, NotFound

from replay_spawner.docker.containers import container_name
from replay_spawner.docker.engine import ENGINE_FAULTS, Engine
from replay_spawner.plans import HUB_LABEL, LAUNCH_LABEL
from replay_spawner.sweeping import Leftover, age_of

REMOVE_SECONDS = 10.0
"""For one removal while somebody waits; it goes on without them."""

AGAIN_SECONDS = 5.0
"""Between two tries of what could not be removed."""

LIST_SECONDS = 30.0
"""For the engine to tell its containers."""


class Leftovers:
    """What is still to be removed, of all sessions of this hub. Its tasks end with the hub's loop."""

    def __init__(self, log: Any = None) -> None:
        self.log = log or logging.getLogger(__name__)
        self._names: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def remove(self, engine: Engine, name: str) -> bool:
        """Kill and remove a container with its anonymous volumes, whether it is there or not; raises nothing.

        Where the engine does not answer, this returns False, and it is tried again until it does.
        """
        if await self._removed(engine, name):
            return True
        self.add(engine, name)
        return False

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


class Containers:
    """The containers of this hub's sessions on its engine, whether they run or have ended."""

    def __init__(self, engine: Engine, leftovers: Leftovers, hub: str) -> None:
        """``hub`` is this hub's mark."""
        self._engine = engine
        self._leftovers = leftovers
        self._hub = hub

    async def found(self) -> Sequence[Leftover]:
        async with asyncio.timeout(LIST_SECONDS):
            listed: list[dict[str, Any]] = await self._engine("containers", all=True, filters={"label": LAUNCH_LABEL})
        return [one for container in listed if (one := self._leftover(container)) is not None]

    async def remove(self, leftover: Leftover) -> None:
        if not await self._leftovers.remove(self._engine, leftover.what):
            raise TimeoutError("it is tried again until the engine says that it is gone")

    def _leftover(self, container: Mapping[str, Any]) -> Leftover | None:
        labels: Mapping[str, str] = container["Labels"]
        launch, age = labels[LAUNCH_LABEL], age_of(container["Created"])
        name = container_name(launch)
        # An image can have our labels, and then what others run from it has them too; the name it cannot have.
        if labels.get(HUB_LABEL) != self._hub or f"/{name}" not in container["Names"]:
            return None
        return Leftover(launch, f"container {name}", age, name)
