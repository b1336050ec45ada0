"""What a build of an environment keeps on disk, and how: the one place that knows the names of its files.

Both sides use it: the service, and the runner that it starts detached. Every small file appears whole or not at all;
those of which there may be only one (who runs the build, how it ended) are refused to whoever comes second.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

from replay_build_service.domain import BuildFailure, FailureReason, RunnableImage

REFERENCE_PREFIX = "venv@sha256:"


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
        value = _read(self.process)
        return None if value is None else ProcessIdentity(int(value["pid"]), float(value["created"]))

    def claim(self, identity: ProcessIdentity) -> bool:
        """Makes this process the build's runner. False where there was one before. Raises `OSError`."""
        return write_once(self.process, json.dumps(asdict(identity)))

    def read_exit(self) -> RunnableImage | BuildFailure | None:
        """How the build ended; ``None`` while it runs, and where it ended without a word."""
        value = _read(self.exit)
        if value is None:
            return None
        if "digest" in value:
            return self.runnable(str(value["digest"]))
        return BuildFailure(FailureReason(value["reason"]), str(value["message"]))

    def write_exit(self, outcome: ImageRecord | BuildFailure) -> bool:
        """Says how it ended. False, and nothing changed, where that was said before. Raises `OSError`."""
        value = (
            {"digest": outcome.digest}
            if isinstance(outcome, ImageRecord)
            else {"reason": outcome.reason, "message": outcome.message}
        )
        return write_once(self.exit, json.dumps(value))

    def read_image(self) -> ImageRecord | None:
        value = _read(self.image)
        if value is None:
            return None
        return ImageRecord(str(value["digest"]), str(value["python"]), tuple(value["executables"]))

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


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any]", json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
