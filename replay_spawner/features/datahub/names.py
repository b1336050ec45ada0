"""What a space is called where people find it: as one folder, and in ``onedatarestfsspec``. Pure.

A space's name is whatever its owners chose, and several may have the same: it is no path until it was made one here.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

MOST_BYTES = 255
"""Of a file's name on Linux (limits.h, ``NAME_MAX``)."""

OURS = frozenset({"README.md", "spaces.json"})
"""What lies beside the spaces."""

_PIECE = 8
"""How many characters of its id tell a space from others of the same name."""

_NOT_IN_PATHS = frozenset("/@%?#\\")
"""``onedatarestfsspec`` 25.2 puts a name into paths and addresses as it is, and takes ``@`` for the start of an id."""


@dataclass(frozen=True, slots=True)
class Space:
    """A space of the DataHub; its id is of letters, digits, ``-`` and ``_``."""

    id: str
    name: str


def folder_names(spaces: Sequence[Space], taken: Collection[str] = OURS) -> dict[str, str]:
    """A folder's name for each space, by ids: never the same twice, and the same whatever order they come in."""
    cleaned = {space.id: cleaned_name(space.name) for space in spaces}
    often = Counter(cleaned.values())
    names = {one: name for one, name in cleaned.items() if often[name] == 1 and name not in taken}
    used = {*names.values(), *taken}
    for one in sorted(cleaned.keys() - names.keys()):
        tries = (one[:_PIECE], one, *(f"{one}-{number}" for number in range(2, 3 + len(used))))
        names[one] = next(name for piece in tries if (name := _with(cleaned[one], piece)) not in used)
        used.add(names[one])
    return names


def cleaned_name(name: str) -> str:
    """One folder's name that looks as much like the space's as it may: no slash, nothing invisible, not hidden, not too long."""
    kept = "".join("_" if one == "/" or _breaks_lines(one) else one for one in name).strip()
    if kept.startswith("."):
        kept = f"_{kept[1:]}"
    return _cut(kept, MOST_BYTES) or "space"


def name_in_mount(space: Space, names: Mapping[str, int]) -> str | None:
    """What ``oneclient`` calls it; none where a link cannot say that. ``names``: how many spaces have a name."""
    if "/" in space.name or any(_breaks_lines(one) for one in space.name) or space.name in {"", ".", ".."}:
        return None
    return space.name if names[space.name] == 1 else f"{space.name}@{space.id}"


def fsspec_name(space: Space, names: Mapping[str, int]) -> str | None:
    """What ``onedatarestfsspec`` calls it; none where it cannot reach it. ``names``: how many spaces have a name."""
    name = space.name
    if (
        name != name.strip()
        or name in {"", ".", ".."}
        or any(one in _NOT_IN_PATHS or _breaks_lines(one) for one in name)
    ):
        return None
    return name if names[name] == 1 else f"{name}@{space.id}"


def how_often(spaces: Sequence[Space]) -> Counter[str]:
    """How many spaces have each name."""
    return Counter(space.name for space in spaces)


def _with(name: str, piece: str) -> str:
    ending = f"@{piece}"
    return f"{_cut(name, MOST_BYTES - len(ending.encode()))}{ending}"


def _cut(name: str, most: int) -> str:
    return name.encode()[:most].decode("utf8", "ignore").rstrip()


def _breaks_lines(character: str) -> bool:
    """Controls, separators of lines, halves of characters. What emoji are joined with is of another category, and stays."""
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
