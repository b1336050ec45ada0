"""The detached process of one build, whatever it makes: a module of the builder's own hands `main` its steps.

It outlives the service that started it. It alone writes the build's log; it enforces the build's limits also while
no service runs; and when it ends, nothing that it started is left. The files in the folder are its only interface.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Protocol, TypeVar

from replay_build_service.builders.detached.failures import (
    CANCELLED,
    INTERNAL,
    KILLED,
    Unbuildable,
    disk_failure,
    time_limit_failure,
)
from replay_build_service.builders.detached.folder import BuildFolder
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.detached.processes import become_reaper, end_descendants, identity_of
from replay_build_service.domain import BuildFailure, Phase


class Steps(Protocol):
    """What one build does. Made after the claim, as what it needs may take long to import."""

    @property
    def time_limit(self) -> float:
        """Seconds."""
        ...

    async def build(self) -> str:
        """All steps; the digest of what they made. Raises `Unbuildable`, and `OSError` where the disk fails."""
        ...

    def clear(self, *, has_failed: bool) -> None:
        """Remove what is of no use any more, when nothing that the build started runs. No error stops it."""
        ...


Folder = TypeVar("Folder", bound=BuildFolder)


def main(folder: Folder, make_steps: Callable[[Folder, LogWriter], Steps]) -> int:
    """Runs the build to its end, and with it this process. Returns 3 where the build has a runner already."""
    identity = identity_of(os.getpid())
    if not folder.claim(identity):
        print("This build has a runner already.", file=sys.stderr)
        return 3
    if not folder.exit.exists():  # Else it was cancelled before it began.
        become_reaper()
        try:
            asyncio.run(_run(folder, identity.created, make_steps))
        except Exception:  # noqa: BLE001  whatever it is, the build has to have an end
            traceback.print_exc()
            _conclude(folder, INTERNAL)
    return 0


async def _run(folder: Folder, started: float, make_steps: Callable[[Folder, LogWriter], Steps]) -> NoReturn:
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if folder.cancel_request.exists():
        _conclude(folder, CANCELLED)
    log = LogWriter(folder.log)
    steps = make_steps(folder, log)
    outcome: str | BuildFailure
    try:
        async with asyncio.timeout(steps.time_limit - (time.time() - started)):
            outcome = await steps.build()
    except TimeoutError:
        outcome = time_limit_failure(steps.time_limit)
    except asyncio.CancelledError:
        outcome = CANCELLED if folder.cancel_request.exists() else KILLED
    except Unbuildable as error:
        outcome = error.failure
    except OSError as error:
        traceback.print_exc()
        outcome = disk_failure(error)
    except Exception:  # noqa: BLE001  a fault of ours, told as one
        traceback.print_exc()
        outcome = INTERNAL
    end_descendants()
    has_failed = isinstance(outcome, BuildFailure)
    steps.clear(has_failed=has_failed)
    with suppress(OSError):
        if isinstance(outcome, BuildFailure):
            log.enter(Phase.FAILED, outcome.message)
        else:
            log.enter(Phase.BUILT, "The environment is ready.")
    _conclude(folder, outcome)


def _conclude(folder: BuildFolder, outcome: str | BuildFailure) -> NoReturn:
    """Says how it ended, once nothing is left running, and ends this process.

    At once, without asyncio's farewell: a step that was interrupted may have left a thread that reads a large tree.
    """
    end_descendants()
    with suppress(OSError):
        folder.write_exit(outcome)
    sys.stderr.flush()
    os._exit(0)
