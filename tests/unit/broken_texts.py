"""What strangers may write: real spellings that were cut, mixed and broken, and answers with anything in them. The same ones for the same seed.

``REPLAY_TEST_INPUTS=1000000`` tries as many of each kind.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

ODD = (
    "",
    " ",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "file:///etc/passwd",
    "https://example.org/x",
    "https://example.org/resource/x/data/contents/a",
    "http://[::1",
    "http://a\u2100b/",
    "%2e%2e",
    "%ff",
    "a\0b",
    "\u202e",
    "\ud83d",
    "2024-01-31",
    "9999-99-99",
    "0001-01-01T00:00:00+14:00",
    "10.1/x",
    "doi:10.5072/FK2/X",
    "alias",
    "0" * 40,
    "md5:" + "0" * 32,
    "x" * 5000,
)
"""Texts that something of ours looks at closely."""


def how_many(usual: int) -> int:
    """Inputs to try: ``usual`` in the suite."""
    return int(os.environ.get("REPLAY_TEST_INPUTS", usual))


def check_sentence(sentence: str) -> None:
    """What people are told of it can be read, and ends as sentences do."""
    assert sentence.isprintable()
    assert sentence.endswith((".", "?"))


def broken_texts(pieces: Sequence[str], seed: int = 7) -> Iterator[str]:
    """Texts without an end: up to three pieces, with up to three changes."""
    chance = random.Random(seed)
    while True:
        text = "".join(chance.choices(pieces, k=chance.randint(1, 3)))
        for _ in range(chance.randint(0, 3)):
            at = chance.randint(0, len(text))
            piece = chance.choice(pieces) if chance.random() < 0.5 else chr(chance.randrange(0x20, 0x3000))
            text = text[:at] + piece + text[at + chance.randint(0, 5) :]
        yield text


def tried(is_fine: Callable[[str], bool], pieces: Sequence[str], usual: int, least: float) -> None:
    """Try broken texts of these pieces, of which ``least`` of all has to be fine: else the wrong things are tried.

    ``is_fine`` fails where something is wrong; it says whether the text means anything.
    """
    count, texts = how_many(usual), broken_texts(pieces)
    fine = sum(is_fine(next(texts)) for _ in range(count))
    assert count * least < fine < count, "neither all nor nothing"


def any_text(chance: random.Random) -> str:
    """A text of `ODD`, or a short one of any letters."""
    if chance.random() < 0.6:
        return chance.choice(ODD)
    return "".join(chr(chance.choice((0x20, 0x2F, chance.randrange(0x3000)))) for _ in range(chance.randint(0, 8)))


def any_value(chance: random.Random, depth: int = 3) -> Any:
    """What JSON may hold."""
    kind = chance.randrange(9 if depth else 6)
    if kind >= 6:
        below = range(chance.randint(0, 3))
        if kind == 6:
            return [any_value(chance, depth - 1) for _ in below]
        return {any_text(chance): any_value(chance, depth - 1) for _ in below}
    whole = chance.choice((0, 1, -1, 2**31, 10**12, 10**20, -(10**20)))
    return (None, chance.random() < 0.5, whole, chance.uniform(-1e6, 1e6), any_text(chance), any_text(chance))[kind]


def changed(value: Any, chance: random.Random) -> Any:
    """A copy in which up to three places hold something else, or nothing."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        *above, last = chance.choice(list(places(value))) or (None,)
        if last is None:
            value = any_value(chance)
            continue
        inner = value
        for step in above:
            inner = inner[step]
        if chance.random() < 0.2:
            del inner[last]
        else:
            inner[last] = any_value(chance)
    return value


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to each value in what JSON may hold, to the whole first."""
    yield path
    if isinstance(value, dict):
        for name, below in cast("dict[str, Any]", value).items():
            yield from places(below, (*path, name))
    elif isinstance(value, list):
        for index, below in enumerate(cast("list[Any]", value)):
            yield from places(below, (*path, index))
