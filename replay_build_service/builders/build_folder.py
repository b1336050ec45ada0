"""What a build of an environment keeps on disk, and how: the one place that knows the names of its files.

Both sides use it: the service, and the runner that it starts detached. Every small file appears whole or not at all;
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
from typing import Any, Self, cast

from replay_build_service.domain import BuildFailure, FailureReason, RunnableImage

REFERENCE_PREFIX = "venv@sha256:"

_MUCH = 1024 * 1024
"""Bytes; none of the files that are read whole comes near."""

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO})
"""What opening a file says that is gone or that a build has made unreadable. All else is a fault of the machine."""

_REASONS = frozenset(FailureReason)


@dataclass(frozen=True, slots=True)
class Instructions:
    """All that a runner needs to know. No secrets: the administrator's environment reaches it as its environment."""

    url: str
    version: str
    outgoing_rules: str
    """`OutgoingRules` as JSON."""
    uv: str
    base_requirements: tuple[str, ...]
    default_python: str
    python_downloads: bool
    time_limit: float
    output_limit: int
    memory_limit: int | None

    @classmethod
    def from_json(cls, text: str) -> Self:
        value = cast("dict[str, Any]", json.loads(text))
        value["base_requirements"] = tuple(value["base_requirements"])
        return cls(**value)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told from a later one that got the same number by when it was started."""

    pid: int
    created: float
    """Seconds since the epoch, as psutil has them."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What ``image.json`` says: written last, so that its presence means that the environment is whole."""

    digest: str
    python: str
    """``3.12``: the minor version, which names the folder of its packages."""
    executables: tuple[str, ...]
    """Paths below the build's folder without which nothing of it runs."""


@dataclass(frozen=True, slots=True)
class BuildFolder:
    """One build's folder. The environment is built where it will run, as it cannot be moved."""

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
    def image(self) -> Path:
        return self.path / "image.json"

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def source(self) -> Path:
        return self.path / "src"

    @property
    def environment(self) -> Path:
        return self.path / "venv"

    @property
    def session_start(self) -> Path:
        return self.environment / "bin" / "replay-session"

    def read_process(self) -> ProcessIdentity | None:
        """Who runs or ran this build; ``None`` before its runner has begun."""
        match _read(self.process):
            case {"pid": int(pid), "created": float() | int() as created} if 0 < pid < 2**31 and 0 <= created < 2**40:
                return ProcessIdentity(pid, float(created))
            case _:
                return None

    def claim(self, identity: ProcessIdentity) -> bool:
        """Makes this process the build's runner. False where there was one before. Raises `OSError`."""
        return write_once(self.process, json.dumps(asdict(identity)))

    def read_exit(self) -> RunnableImage | BuildFailure | None:
        """How the build ended; ``None`` while it runs, and where it ended without a word."""
        match _read(self.exit):
            case {"digest": str(digest)}:
                return self.runnable(digest)
            case {"reason": str(reason), "message": str(message)} if reason in _REASONS:
                return BuildFailure(FailureReason(reason), message)
            case _:
                return None

    def write_exit(self, outcome: ImageRecord | BuildFailure) -> bool:
        """Says how it ended. False, and nothing changed, where that was said before. Raises `OSError`."""
        value = (
            {"digest": outcome.digest}
            if isinstance(outcome, ImageRecord)
            else {"reason": outcome.reason, "message": outcome.message}
        )
        return write_once(self.exit, json.dumps(value))

    def read_image(self) -> ImageRecord | None:
        match _read(self.image):
            case {"digest": str(digest), "python": str(python), "executables": names}:
                executables = _texts(names)
                return None if executables is None else ImageRecord(digest, python, executables)
            case _:
                return None

    def write_image(self, image: ImageRecord) -> None:
        """Raises `OSError`."""
        write_whole(self.image, json.dumps(asdict(image)))

    def runnable(self, digest: str) -> RunnableImage:
        return RunnableImage(f"{REFERENCE_PREFIX}{digest}", str(self.path))


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


def _texts(value: object) -> tuple[str, ...] | None:
    """The members of a list that holds nothing but texts; ``None`` where it is none."""
    if not isinstance(value, list):
        return None
    members = cast("list[object]", value)
    texts = tuple(member for member in members if isinstance(member, str))
    return texts if len(texts) == len(members) else None


def _read(path: Path) -> Mapping[str, object] | None:
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
