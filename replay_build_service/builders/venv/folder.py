"""What the build of an environment keeps on disk beside what every detached build does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

from replay_build_service.builders.detached.folder import BuildFolder, read_object, write_whole
from replay_build_service.domain import RunnableImage

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
    repository_limit: int
    memory_limit: int | None

    @classmethod
    def from_json(cls, text: str) -> Self:
        value = cast("dict[str, Any]", json.loads(text))
        value["base_requirements"] = tuple(value["base_requirements"])
        return cls(**value)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What ``image.json`` says: written last, so that its presence means that the environment is whole."""

    digest: str
    python: str
    """``3.12``: the minor version, which names the folder of its packages."""
    executables: tuple[str, ...]
    """Paths below the build's folder without which nothing of it runs."""


@dataclass(frozen=True, slots=True)
class EnvironmentFolder(BuildFolder):
    """One build's folder. The environment is built where it will run, as it cannot be moved."""

    @property
    def image(self) -> Path:
        return self.path / "image.json"

    @property
    def environment(self) -> Path:
        return self.path / "venv"

    @property
    def session_start(self) -> Path:
        return self.environment / "bin" / "replay-session"

    def read_image(self) -> ImageRecord | None:
        match read_object(self.image):
            case {"digest": str(digest), "python": str(python), "executables": names}:
                executables = _texts(names)
                return None if executables is None else ImageRecord(digest, python, executables)
            case _:
                return None

    def write_image(self, image: ImageRecord) -> None:
        """Raises `OSError`."""
        write_whole(self.image, json.dumps(asdict(image)))

    def runnable(self, digest: str) -> RunnableImage:
        """The image that this folder holds."""
        return RunnableImage(f"{REFERENCE_PREFIX}{digest}", str(self.path))


def _texts(value: object) -> tuple[str, ...] | None:
    """The members of a list that holds nothing but texts; ``None`` where it is none."""
    if not isinstance(value, list):
        return None
    members = cast("list[object]", value)
    texts = tuple(member for member in members if isinstance(member, str))
    return texts if len(texts) == len(members) else None
