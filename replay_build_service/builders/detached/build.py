"""The service's side of detached builds: starting their runners, following them, and knowing how they ended.

A build is known by its folder alone, so nothing here has a state that a restart could lose.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from replay_build_service.builders.base import LogChunk
from replay_build_service.builders.detached.failures import CANCELLED, KILLED, time_limit_failure
from replay_build_service.builders.detached.folder import BuildFolder
from replay_build_service.builders.detached.log import read_chunk
from replay_build_service.builders.detached.processes import (
    UNKNOWN_PROCESS,
    end_tree,
    is_running,
    launch_detached,
    reap_children,
    request_end,
    wait_gone,
)
from replay_build_service.builders.detached.trees import remove_tree
from replay_build_service.domain import BuildFailure, BuildId, RunnableImage

log = logging.getLogger(__name__)

POLL = 0.05
"""Seconds between two looks at a log that has nothing new."""

START_TIMEOUT = 30.0
CANCEL_GRACE = 3.0
BACKSTOP = 15.0
"""Seconds over its time limit after which a runner that has not ended its build by itself is ended from here."""

DOOMED = ".removing-"
"""What the name of a folder begins with that is being removed. No build's name does."""

_ROOT = Path(__file__).resolve().parents[3]
"""Where this package lies, so that the runner is the same code."""


def folder_path(builds_dir: Path, build_id: BuildId) -> Path:
    """Where a build has its folder. Raises `ValueError` for an id that is no name of one."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", build_id) is None:
        raise ValueError(f"{build_id!r} cannot be the name of a folder.")
    return builds_dir.resolve() / build_id


async def launch_runner(folder: BuildFolder, module: str, environment: Mapping[str, str]) -> None:
    """Starts a build's runner and returns once it has claimed the build. Raises `OSError` where it does not start."""
    child = await asyncio.to_thread(
        launch_detached,
        (sys.executable, "-m", module, str(folder.path)),
        folder=_ROOT,
        environment=environment,
        output=folder.runner_output,
    )
    deadline = time.monotonic() + START_TIMEOUT
    while folder.read_process() is None and folder.read_exit() is None:
        reap_children()
        if child.returncode is not None or time.monotonic() > deadline:
            raise OSError(0, "its process did not start", str(folder.runner_output))
        await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class FailedBuild:
    """A build that did not even start."""

    failure: BuildFailure

    async def follow(self, position: int) -> AsyncIterator[LogChunk]:
        return
        yield

    async def outcome(self) -> RunnableImage | BuildFailure:
        return self.failure

    async def cancel(self) -> None:
        """It has ended."""


@dataclass(frozen=True, slots=True)
class DetachedBuild:
    """A build that was started. What its digest stands for, its builder knows."""

    folder: BuildFolder
    time_limit: float

    async def follow(self, position: int) -> AsyncIterator[LogChunk]:
        """See `RunningBuild`."""
        while True:
            # Asked before reading: what was written before the end is then read before this returns.
            has_ended = await asyncio.to_thread(self._has_ended)
            while (chunk := await asyncio.to_thread(read_chunk, self.folder.log, position)).position > position:
                position = chunk.position
                if chunk.records:
                    yield chunk
            if has_ended:
                return
            await asyncio.sleep(POLL)

    async def digest(self) -> str | BuildFailure:
        """How it ended; one that has not is ended."""
        return await asyncio.to_thread(end_build, self.folder, KILLED, 0.0)

    async def cancel(self) -> None:
        """See `RunningBuild`."""
        await asyncio.to_thread(end_build, self.folder, CANCELLED, CANCEL_GRACE)

    def _has_ended(self) -> bool:
        """Whether there is an end on record, or nobody left to make one. Ends a runner that is long over its time."""
        identity = self.folder.read_process()
        if identity is None or self.folder.exit.exists() or not is_running(identity):
            return True
        if time.time() - identity.created > self.time_limit + BACKSTOP:
            end_build(self.folder, time_limit_failure(self.time_limit), grace=0.0)
            return True
        return False


def end_build(folder: BuildFolder, failure: BuildFailure, grace: float) -> str | BuildFailure:
    """How the build ended. One that has not is ended, with everything of it, and that is its end. Blocking.

    With ``grace``, its runner has that many seconds to end it in good order, so that its log says so.
    """
    identity = folder.read_process()
    if folder.read_exit() is None and folder.path.exists():
        if identity is not None:
            if grace and is_running(identity):
                folder.cancel_request.touch()
                request_end(identity)
                wait_gone(identity, grace)
            if folder.read_exit() is None:
                end_tree(identity, folder.path)
        elif folder.process.exists():
            end_tree(UNKNOWN_PROCESS, folder.path)
        folder.write_exit(failure)
    if identity is not None and not wait_gone(identity, CANCEL_GRACE):
        end_tree(identity, folder.path)
    return folder.read_exit() or failure


def remove_build(folder: BuildFolder) -> None:
    """Removes all that a build has left on disk. Ends what still runs of it. Blocking. Raises `OSError`."""
    with suppress(FileNotFoundError):
        folder.path.chmod(0o700)  # Its build may have locked it, and then nothing in it could be read.
    end_build(folder, CANCELLED, grace=0.0)
    # Out of the way first, and as a whole: a folder that is half removed would look like a build.
    doomed = folder.path.with_name(f"{DOOMED}{folder.path.name}")
    remove_tree(doomed)
    if folder.path.exists():
        folder.path.rename(doomed)
        remove_tree(doomed)


def sweep_folders(builds_dir: Path, known: Collection[BuildId]) -> list[BuildId]:
    """Removes the folders of builds that are not among these, and says which. Blocking.

    A folder that cannot be removed is logged and left for the next time. Raises `OSError` where there is no looking.
    """
    if not builds_dir.is_dir():
        return []
    removed: list[BuildId] = []
    for path in sorted(builds_dir.resolve().iterdir()):
        folder = BuildFolder(path)
        try:
            if path.name.startswith(DOOMED):
                remove_tree(path)
            elif path.name not in known and folder.instructions.exists():
                remove_build(folder)
            else:
                continue
        except Exception:
            # What a stranger's build left must not keep the others, let alone the service, from going on.
            log.exception("Could not remove %s; the next start tries again", path)
        else:
            removed.append(BuildId(path.name.removeprefix(DOOMED)))
    return removed
