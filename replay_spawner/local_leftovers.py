"""What sessions that are processes of this machine may leave: their folders, and processes that outlive them."""

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from replay_spawner.sweeping import Leftover, age_of

HUB_VARIABLE = "REPLAY_HUB"
"""In the environment of a session's processes: whose they are."""

_LAUNCH = re.compile(r"[0-9a-f]{32}")


class Machine:
    """A folder with sessions, and this account's processes."""

    def __init__(self, sessions: Path, hub: str, remove: Callable[[Path], None]) -> None:
        """``hub`` is what its sessions have in `HUB_VARIABLE`; ``remove`` ends a session's processes, then it removes its folder."""
        self._sessions = sessions
        self._hub = hub
        self._remove = remove

    async def found(self) -> Sequence[Leftover]:
        return await asyncio.to_thread(lambda: [*self._folders(), *self._processes()])

    async def remove(self, leftover: Leftover) -> None:
        # Its processes end in either case, and its folder goes; some of one launch may be gone with another already.
        folder = self._sessions / leftover.launch
        await asyncio.to_thread(self._remove, folder)
        if await asyncio.to_thread(folder.exists):
            raise OSError(f"{folder} is still there")

    def _folders(self) -> Iterator[Leftover]:
        """Sessions' folders by their names: the folder that holds them is the hub's own."""
        with suppress(FileNotFoundError), os.scandir(self._sessions) as entries:
            for entry in entries:
                if _LAUNCH.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    began = entry.stat(follow_symlinks=False).st_ctime
                    yield Leftover(entry.name, f"folder {entry.path}", age_of(began))

    def _processes(self) -> Iterator[Leftover]:
        """Processes that say they are of a launch of this hub and whose folder is gone: a session may hide its own, from all."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                environment = process.environ()
                launch = environment.get("REPLAY_LAUNCH", "")
                if (
                    _LAUNCH.fullmatch(launch)
                    and environment.get(HUB_VARIABLE) == self._hub
                    and not (self._sessions / launch).exists()
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    yield Leftover(launch, f"process {process.pid} ({process.name()})", age_of(process.create_time()))
