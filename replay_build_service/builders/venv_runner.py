"""The detached process of one build: ``python -m replay_build_service.builders.venv_runner FOLDER``.

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
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from replay_build_service.builders.build_folder import BuildFolder, ImageRecord, Instructions
from replay_build_service.builders.processes import become_reaper, end_descendants, identity_of
from replay_build_service.builders.repository_files import Unbuildable
from replay_build_service.builders.tree_digest import remove_tree
from replay_build_service.builders.uv_messages import duration
from replay_build_service.domain import BuildFailure, FailureReason, Phase

CANCELLED = BuildFailure(FailureReason.CANCELLED, "The build was cancelled. Open the link again to start a new one.")
KILLED = BuildFailure(
    FailureReason.KILLED, "The build was ended from outside before it was done. Open the link again to start a new one."
)


def time_limit_failure(seconds: float) -> BuildFailure:
    """The failure of a build that took longer than it may."""
    return BuildFailure(
        FailureReason.TIMEOUT,
        f"The build took longer than {duration(seconds)}, which is the limit here, and was ended.",
    )


def disk_failure(error: OSError) -> BuildFailure:
    """The failure of a build whose files could not be read or written."""
    where = f" ({Path(os.fsdecode(error.filename)).name})" if error.filename else ""
    return BuildFailure(
        FailureReason.INTERNAL,
        f"The build service could not work with its files: {error.strerror or 'unknown error'}{where}. "
        "Tell those who run it, and try again later.",
    )


_INTERNAL = BuildFailure(
    FailureReason.INTERNAL, "The build service made a mistake. Tell those who run it; its log has the details."
)


def main(folder: BuildFolder) -> int:
    """Runs the build to its end, and with it this process. Returns 3 where the build has a runner already."""
    identity = identity_of(os.getpid())
    if not folder.claim(identity):
        print("This build has a runner already.", file=sys.stderr)
        return 3
    if not folder.exit.exists():  # Else it was cancelled before it began.
        become_reaper()
        try:
            asyncio.run(_run(folder, identity.created))
        except Exception:  # noqa: BLE001  whatever it is, the build has to have an end
            traceback.print_exc()
            _conclude(folder, _INTERNAL)
    return 0


async def _run(folder: BuildFolder, started: float) -> NoReturn:
    # Not at the top: the claim comes first, and these take long to import.
    from replay_build_service.builders.build_commands import BuildCommands
    from replay_build_service.builders.build_log import LogWriter
    from replay_build_service.builders.venv_steps import EnvironmentSteps

    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if folder.cancel_request.exists():
        _conclude(folder, CANCELLED)
    job = Instructions.from_json(folder.instructions.read_text(encoding="utf-8"))
    log = LogWriter(folder.log)
    commands = BuildCommands(log, job.output_limit, job.memory_limit)
    try:
        async with asyncio.timeout(job.time_limit - (time.time() - started)):
            image = await EnvironmentSteps(folder, job, commands, dict(os.environ)).build()
        log.enter(Phase.BUILT, "The environment is ready.")
        _conclude(folder, image)
    except TimeoutError:
        failure = time_limit_failure(job.time_limit)
    except asyncio.CancelledError:
        failure = CANCELLED if folder.cancel_request.exists() else KILLED
    except Unbuildable as error:
        failure = error.failure
    except OSError as error:
        traceback.print_exc()
        failure = disk_failure(error)
    except Exception:  # noqa: BLE001  a fault of ours, told as one
        traceback.print_exc()
        failure = _INTERNAL
    end_descendants()
    _make_room(folder)
    with suppress(OSError):
        log.enter(Phase.FAILED, failure.message)
    _conclude(folder, failure)


def _make_room(folder: BuildFolder) -> None:
    """Removes what a failed build made: of no use, and on a full disk in the way of saying so."""
    folder.image.unlink(missing_ok=True)
    for part in (folder.environment, folder.source, folder.home, folder.temporary):
        with suppress(OSError):
            remove_tree(part)


def _conclude(folder: BuildFolder, outcome: ImageRecord | BuildFailure) -> NoReturn:
    """Says how it ended, once nothing is left running, and ends this process.

    At once, without asyncio's farewell: a step that was interrupted may have left a thread that reads a large tree.
    """
    end_descendants()
    with suppress(OSError):
        folder.write_exit(outcome)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(BuildFolder(Path(sys.argv[1]))))
