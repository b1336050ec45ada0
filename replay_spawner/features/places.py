"""Where files of features are in a session, and what a restarted hub has to know of them. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from replay_spawner.features.base import HOME, SessionContext, SessionFile

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
"""As a Kubernetes Secret takes one for a key, and every file system for a name."""


class NoPlace(ValueError):
    """A feature gives a file whose folder or name cannot be. The text is for who made the feature."""


def checked(files: Iterable[SessionFile]) -> list[SessionFile]:
    """Files whose places are usable, each place once. Raises `NoPlace`."""
    found: dict[tuple[str, str, str], SessionFile] = {}
    for file in files:
        path = PurePosixPath(file.folder.removeprefix(HOME) or "/")
        is_plain = (
            path.is_absolute() and ".." not in path.parts and str(path) == (file.folder.removeprefix(HOME) or "/")
        )
        if not is_plain or (str(path) == "/" and not file.folder.startswith(HOME)):
            raise NoPlace(f"“{file.folder}” is no folder for a file: absolute, or {HOME}/…, in its plainest spelling.")
        if not _NAME.fullmatch(file.name):
            raise NoPlace(f"“{file.name}” is no name for a file of a feature.")
        if found.setdefault((file.container, file.folder, file.name), file) is not file:
            raise NoPlace(f"{file.folder}/{file.name} is given twice.")
    return list(found.values())


def in_home(folder: str) -> str | None:
    """The folder below the session's own, without a slash before it; none for one that is elsewhere."""
    return folder.removeprefix(HOME).lstrip("/") if folder.startswith(HOME) else None


def path_in_session(file: SessionFile, home: str) -> str:
    """Where the session finds a file, in a container or pod."""
    return f"{file.folder.replace(HOME, home.rstrip('/'), 1)}/{file.name}"


class KeptFeatures(BaseModel):
    """What the hub keeps of a session's features in its database: nothing secret, and no content of files."""

    model_config = ConfigDict(frozen=True)
    launch: str
    vo: str
    repository: str
    version: str
    home: str
    has: list[str] | None
    names: list[str]
    files: list[tuple[str, str, bool, str, str]]

    @classmethod
    def of(cls, session: SessionContext, names: Sequence[str], files: Sequence[SessionFile]) -> "KeptFeatures":
        return cls(
            launch=session.launch,
            vo=session.vo,
            repository=session.repository,
            version=session.version,
            home=session.home,
            has=None if session.has is None else sorted(session.has),
            names=list(names),
            files=[(one.folder, one.name, one.is_secret, one.container, one.variable) for one in files],
        )

    @property
    def places(self) -> list[SessionFile]:
        """The files, without what is in them."""
        return [
            SessionFile(folder, name, None, is_secret, container, variable)
            for folder, name, is_secret, container, variable in self.files
        ]

    @classmethod
    def in_state(cls, state: Mapping[str, Any]) -> "KeptFeatures | None":
        kept = state.get("replay_features")
        return None if kept is None else cls.model_validate(kept)
