"""What a label of ours on an image says: what the repository has at its top level. Standard library only.

Who gives a session folders of its own has to know which names there are taken. An image that does not say so is one of which
that is not known.
"""

from collections.abc import Iterable

TOP_LEVEL = "replay.top-level"

MOST_BYTES = 8000
"""Of the label: it is one argument of a command, and is read with every image."""


def top_level_label(names: Iterable[str] | None) -> str:
    """The label's value; empty where the names are not known, too many, or none that a label can hold."""
    joined = "/".join(sorted(names or ()))
    if not joined.isprintable() or len(joined.encode("utf8", "replace")) > MOST_BYTES:
        return ""
    return joined


def top_level_in(value: object) -> tuple[str, ...] | None:
    """The names; none where they are not known."""
    return tuple(value.split("/")) if isinstance(value, str) and value else None
