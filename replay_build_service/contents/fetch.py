"""The program that fetches a content: ``python -m replay_build_service.contents.fetch``, told by `ContentInstructions`.

It ends with status 0 once the folder is there, whole; or with 1, the folder not there, and as the last line of its standard output a
sentence for the person, which the file that ``REPLAY_CONTENT_SAYS`` names gets, too. What it writes meanwhile, its own temporary
files among it, lies in one folder beside its destination, which is gone when it ends. Nothing else has to be writable, so a
container with a file system to read only will do.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn, cast

from replay_build_service.builders.detached.failures import Unbuildable, duration
from replay_build_service.builders.detached.processes import become_reaper, end_descendants
from replay_build_service.builders.detached.sources import fetch_sources
from replay_build_service.builders.detached.terminal_text import plain_text, safe_line
from replay_build_service.builders.detached.trees import is_deeper, remove_tree
from replay_build_service.contents.instructions import SAYS, VARIABLE, ContentInstructions
from replay_build_service.domain import FailureReason, Phase

_MUCH = 1500
"""Characters of a sentence. A container's termination message may have 4096 bytes."""

_MOST_LEVELS = 64
"""As of records: see `replay_build_service.sources.paths`."""

_ATTEMPTS = 3
"""At removing what there is: a thread that was interrupted may still have written one file more."""

MISTAKE = "The program that fetches contents made a mistake. Tell those who run this Replay; its log has the details."
ENDED = "Fetching the content was ended from outside before it was done. Open the link again."


@dataclass(frozen=True, slots=True)
class _Output:
    """Standard output, where each line belongs to whoever runs this."""

    scratch: Path

    def enter(self, phase: Phase, text: str) -> None:
        self.lines([text])

    def lines(self, texts: list[str]) -> None:
        for text in texts:
            print(safe_line(text.replace(f"{self.scratch}{os.sep}", "")), flush=True)


def main() -> NoReturn:
    """Fetches what the environment says, and with that ends this process."""
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="replace")
    become_reaper()
    try:
        told = ContentInstructions.from_json(os.environ[VARIABLE])
        # In one go it came into being, so what is there is whole.
        if Path(told.folder).is_dir():
            _conclude("")
        asyncio.run(_fetch(told))
    except Exception:  # noqa: BLE001 - whatever it is, whoever waits is told of an end
        traceback.print_exc()
    _conclude(MISTAKE)


async def _fetch(told: ContentInstructions) -> None:
    _conclude(await _fetched(told))


async def _fetched(told: ContentInstructions) -> str:
    """Why there is no such folder, in a sentence for the person; nothing where it is there."""
    folder = Path(told.folder)
    scratch = folder.with_name(f"{folder.name}.part-{secrets.token_hex(8)}")
    _on_signals(_once(asyncio.current_task()))
    try:
        async with asyncio.timeout(told.seconds):
            _make_room(scratch)
            files = scratch / "files"
            await fetch_sources(told.url, told.version, files, told.outgoing_rules, told.limit, _Output(scratch))
            _refuse_depth(files)
            _take_place(files, folder)
    except TimeoutError:
        return f"The content did not come within {duration(told.seconds)}, which is the limit here. Try again later."
    except asyncio.CancelledError:
        return ENDED
    except Unbuildable as error:
        return error.failure.message
    except OSError as error:
        traceback.print_exc()
        why = error.strerror or "unknown error"
        return f"The content's files could not be written: {why}. Tell the administrators, and try again later."
    finally:
        end_descendants()
        _clear(scratch)
    return ""


def _refuse_depth(files: Path) -> None:
    """Whatever copies it into a session may not go that deep."""
    if is_deeper(files, _MOST_LEVELS):
        raise Unbuildable(
            FailureReason.FETCH, f"Its folders are more than {_MOST_LEVELS} levels deep, which is the limit here."
        )


def _make_room(scratch: Path) -> None:
    temporary = scratch / "tmp"
    temporary.mkdir(parents=True)
    tempfile.tempdir = os.environ["TMPDIR"] = os.environ["HOME"] = str(temporary)


def _take_place(files: Path, folder: Path) -> None:
    try:
        files.rename(folder)
    except OSError:
        # Somebody else was as quick, with the same files.
        if not folder.is_dir():
            raise


def _clear(scratch: Path) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            remove_tree(scratch)
        except OSError:
            if attempt == _ATTEMPTS:
                traceback.print_exc()
        else:
            return


def _on_signals(end: Callable[[], None]) -> None:
    # The first process of a container is sent nothing that it does not ask for.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)


def _once(task: asyncio.Task[object] | None) -> Callable[[], None]:
    """Whoever is impatient and asks again does not interrupt the cleaning."""
    asked: list[None] = []

    def end() -> None:
        if task is not None and not asked:
            asked.append(None)
            task.cancel()

    return end


def _conclude(sentence: str) -> NoReturn:
    """Says why it failed, if it did, as the last thing that is said, and ends this process.

    At once, without Python's farewell: a step that was interrupted may have left a thread that reads a large tree.
    """
    shown = plain_text(sentence)[:_MUCH]
    if shown and (file := os.environ.get(SAYS)):
        try:
            Path(file).write_text(shown, encoding="utf-8")
        except OSError:
            traceback.print_exc()
    with suppress(OSError):  # Nobody may listen any more.
        sys.stderr.flush()
        if shown:
            print(shown, flush=True)
    os._exit(1 if shown else 0)


if __name__ == "__main__":
    main()
