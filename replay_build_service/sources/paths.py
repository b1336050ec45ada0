"""What a file of a record, or of an archive that is unpacked, may be called. Standard library only.

Names come from strangers. One that is let through is a path below the folder that it is unpacked in, on every file system, and no two of
them are one file on any.
"""

from __future__ import annotations

import unicodedata
from itertools import takewhile

from replay_build_service.errors import Refused

__all__ = ["MAX_DEPTH", "MAX_NAME", "MAX_PATH", "Places", "link_target", "shown"]

MAX_DEPTH = 64
"""Folders in folders."""
MAX_NAME = 255
"""Bytes of a file's own name: what Linux takes."""
MAX_PATH = 1024
"""Bytes of a path. Linux takes 4096, of which the builders' own folders need some."""

_SHOWN = 80


class Places:
    """The files, folders and links of one tree, each checked as it is added.

    ``most``: how many there may be; ``what``: how people are told of the whole (“The record”).
    """

    def __init__(self, most: int, what: str = "The record") -> None:
        self._most = most
        self._what = what
        self._known: dict[str, tuple[str, bool]] = {}
        self.left_out = 0
        """How many entries below a folder ``.git`` were passed over."""

    def __len__(self) -> int:
        return len(self._known)

    def file(self, name: str) -> str | None:
        """The path of a file or a link, without what changes nothing in it; none where it is left out.

        Raises `Refused` for a name that leads out of the tree, that no file system takes, or that meets another one's place.
        """
        return self._add(name, is_folder=False)

    def folder(self, name: str) -> str | None:
        """The same of a folder, which may come more than once. Empty for the tree itself."""
        return self._add(name, is_folder=True)

    def top_level(self) -> frozenset[str]:
        """The names that lie in no folder."""
        return frozenset(path for path, _ in self._known.values() if "/" not in path)

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder with exactly that path."""
        return self._known.get(_folded(path)) == (path, True)

    def _add(self, name: str, *, is_folder: bool) -> str | None:
        parts = _parts(name, self._what)
        if any(_folded(part) == ".git" for part in parts):
            # Its settings name programs, which git would run.
            self.left_out += 1
            return None
        if not parts:
            if is_folder:
                return ""
            raise Refused(f"{self._what} has a file without a name.")
        for depth in range(1, len(parts)):
            self._place("/".join(parts[:depth]), is_folder=True)
        path = "/".join(parts)
        self._place(path, is_folder=is_folder)
        return path

    def _place(self, path: str, *, is_folder: bool) -> None:
        folded = _folded(path)
        known = self._known.get(folded)
        if known is None:
            if len(self._known) >= self._most:
                raise Refused(
                    f"{self._what} has more than {self._most:,} files and folders, which is the limit here. "
                    "Keep many small files elsewhere, packed into one, and fetch that from the notebook."
                )
            self._known[folded] = (path, is_folder)
        elif known[0] != path:
            raise Refused(
                f"{self._what} has “{shown(known[0])}” and “{shown(path)}”, whose names differ in nothing but upper and lower case or "
                "in how a letter is written, so some file systems take them for one."
            )
        elif known[1] != is_folder:
            raise Refused(f"{self._what} has both a file and a folder “{shown(path)}”.")
        elif not is_folder:
            raise Refused(f"{self._what} has two files “{shown(path)}”, and only one can be had.")


def link_target(path: str, target: str, what: str) -> str:
    """The target of a symbolic link at ``path``, if wherever other such links lead it stays in the tree.

    It may climb out of folders at its beginning alone: behind the name of a folder, which may be a link, nobody could say where ``..`` is.
    Raises `Refused`.
    """
    link = f"{what} has a link “{shown(path)}”"
    parts = target.split("/")
    if not target or target.startswith("/") or len(target.encode(errors="replace")) > MAX_PATH:
        raise Refused(f"{link} that leads out of it. Put the file itself there.")
    if "\\" in target or any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in target):
        raise Refused(f"{link} to what is no path. Put the file itself there.")
    steps = [part for part in parts if part not in {"", "."}]
    climbs = sum(1 for _ in takewhile(lambda part: part == "..", steps))
    if ".." in steps[climbs:] or climbs > path.count("/"):
        raise Refused(f"{link} that leads out of it. Put the file itself there.")
    if any(_folded(part) == ".git" for part in steps):
        raise Refused(f"{link} into a folder “.git”, which is left out here. Put the file itself there.")
    return target


def _parts(name: str, what: str) -> list[str]:
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in name):
        raise Refused(f"{what} has a file named “{shown(name)}”, with characters that no name has. Rename it.")
    if "\\" in name:
        raise Refused(f"{what} has a file named “{shown(name)}”: folders are written with “/”. Pack it anew.")
    if name.startswith("/"):
        raise Refused(f"{what} has a file for “{shown(name)}”, which is a place outside of it. Pack it anew.")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise Refused(f"{what} has a file for “{shown(name)}”, which leads out of it. Pack it anew.")
    if any(len(part.encode()) > MAX_NAME for part in parts) or len("/".join(parts).encode()) > MAX_PATH:
        raise Refused(f"{what} has a file whose name is too long: “{shown(name)}”. Rename it.")
    if len(parts) > MAX_DEPTH:
        raise Refused(f"{what} has folders in folders more than {MAX_DEPTH} deep. Move them up.")
    return parts


def _folded(path: str) -> str:
    """What file systems that tell no case, or that rewrite letters, make of a path (Unicode's canonical caseless matching, D145)."""
    decomposed = unicodedata.normalize("NFD", path)
    return unicodedata.normalize("NFD", decomposed.casefold())


def shown(name: str) -> str:
    """A name as a sentence may have it: short, and of letters that can be seen."""
    visible = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name[: _SHOWN + 1])
    return visible if len(visible) <= _SHOWN else f"{visible[: _SHOWN - 1]}…"
