"""How long it takes to read what somebody pasted, and whether that grows with its length alone.

Nobody is asked for anything here. The texts are real spellings, and pieces of them repeated up to the greatest length, which is what somebody
would paste who wants the service to be busy.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.figures import spread
from replay_build_service.errors import BadLink
from replay_build_service.links import RepoSpec
from replay_build_service.pasting import MOST_TEXT, read
from tests.unit.pasted_cases import SPELLINGS

SHORT = MOST_TEXT // 4
WANTED = 2.0
"""Times the time for each character of a short text that one of a long text may take; a square would be 4."""

_PIECES = (
    "(",
    "[",
    "<",
    ".",
    "-",
    "/",
    "@",
    "%",
    ";",
    ":",
    "&",
    "~",
    "%2F",
    "a/",
    "1.",
    "10.",
    "10.1.",
    "doi:",
    "doi ",
    "git@",
    ";path=",
    "/url/",
    "a=b&",
    "☃",
)


def measure(folder: Path, rounds: int) -> str:
    """The measurement as Markdown."""
    del folder
    real = [text for group in SPELLINGS.values() for text, _ in group]
    seconds = [_seconds(read, text, rounds) for text in real]
    links = [f"gh/o/r/{'a' * (SHORT // 4)}", f"gh/o/r/{'a/' * (SHORT // 8)}b"]
    grown: list[tuple[float, float, str]] = []
    for piece in {*_PIECES, *real}:
        short, long = (_seconds(read, _repeated(piece, length), rounds) for length in (SHORT, MOST_TEXT))
        grown.append((long / short / (MOST_TEXT / SHORT), long, piece))
    worst, slowest = max(grown), max(grown, key=lambda one: one[1])
    parsed = max(_seconds(RepoSpec.parse, link, rounds) for link in links)
    met = "met" if worst[0] <= WANTED else "**not met**"
    return (
        f"### Reading what was pasted, {len(real)} spellings\n\n"
        f"One of them: {spread(seconds, 'µs', 1e6, 0)}. A text of {MOST_TEXT} characters, the slowest of {len(grown)}: "
        f"{slowest[1] * 1e3:.1f} ms (“{slowest[2][:40]}”, repeated). Time for each character of a text four times as long: at most "
        f"**{worst[0]:.2f}** of that before (wanted: at most {WANTED}, {met}). A link's spec of {len(links[1])} characters: {parsed * 1e6:.0f} µs.\n"
    )


def _repeated(piece: str, length: int) -> str:
    return (piece * (length // len(piece) + 1))[:length]


def _seconds(asked: Callable[[str], object], text: str, rounds: int) -> float:
    """Of processor time, the least of all rounds: whatever else the machine does only adds to it."""
    least = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        with suppress(BadLink):
            asked(text)
        least = min(least, time.process_time() - begun)
    return least
