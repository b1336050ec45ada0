"""What a detached build keeps on disk, and how: the one place that knows the names of its files.

Both sides use it: the service, and the runner that it starts. Every small file appears whole or not at all;
those of which there may be only one (who runs the build, how it ended) are refused to whoever comes second.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from replay_build_service.domain import BuildFailure, FailureReason

_MUCH = 1024 * 1024
"""Bytes; none of the files that are read whole comes near."""

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO})
"""What opening a file says that is gone or that a build has made unreadable. All else is a fault of the machine."""

_REASONS = frozenset(FailureReason)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told from a later one that got the same number by when it was started."""

    pid: int
    created: float
    """Seconds since the epoch, as psutil has them."""


@dataclass(frozen=True, slots=True)
class BuildFolder:
    """One build's folder, whatever it makes."""

    path: Path

    @property
    def instructions(self) -> Path:
        return self.path / "job.json"

    @property
    def process(self) -> Path:
        return self.path / "process.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def runner_output(self) -> Path:
        """What the runner itself prints: nothing, or the traceback of a fault of ours."""
        return self.path / "runner.out"

    @property
    def cancel_request(self) -> Path:
        return self.path / "cancel"

    @property
    def exit(self) -> Path:
        return self.path / "exit.json"

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def source(self) -> Path:
        return self.path / "src"

    def read_process(self) -> ProcessIdentity | None:
        """Who runs or ran this build; ``None`` before its runner has begun."""
        match read_object(self.process):
            case {"pid": int(pid), "created": float() | int() as created} if 0 < pid < 2**31 and 0 <= created < 2**40:
                return ProcessIdentity(pid, float(created))
            case _:
                return None

    def claim(self, identity: ProcessIdentity) -> bool:
        """Makes this process the build's runner. False where there was one before. Raises `OSError`."""
        return write_once(self.process, json.dumps(asdict(identity)))

    def read_exit(self) -> str | BuildFailure | None:
        """How the build ended, with the digest of what it made; ``None`` while it runs, and where it ended without a word."""
        match read_object(self.exit):
            case {"digest": str(digest)}:
                return digest
            case {"reason": str(reason), "message": str(message)} if reason in _REASONS:
                return BuildFailure(FailureReason(reason), message)
            case _:
                return None

    def write_exit(self, outcome: str | BuildFailure) -> bool:
        """Says how it ended: the digest of what it made, or why it failed. Raises `OSError`.

        False, and nothing changed, where that was said before.
        """
        value = (
            {"digest": outcome} if isinstance(outcome, str) else {"reason": outcome.reason, "message": outcome.message}
        )
        return write_once(self.exit, json.dumps(value))


def write_whole(path: Path, text: str) -> None:
    """The file has the old content or the new one, never a part. Raises `OSError`."""
    temporary = _write_beside(path, text)
    os.replace(temporary, path)


def write_once(path: Path, text: str) -> bool:
    """Like `write_whole`, but the first to do so wins: False where the file was there. Raises `OSError`.

    A link made to a finished file, rather than ``O_EXCL``: nobody ever reads half of it.
    """
    temporary = _write_beside(path, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def _write_beside(path: Path, text: str) -> str:
    temporary = f"{path}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def read_object(path: Path) -> Mapping[str, object] | None:
    """The JSON object in a small file; ``None`` where there is none.

    A build can reach its files. Whatever it made of them reads as if it were not there.
    """
    try:
        # Without waiting for whoever writes into what may have become a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = os.read(descriptor, _MUCH + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MUCH:
        return None
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None
