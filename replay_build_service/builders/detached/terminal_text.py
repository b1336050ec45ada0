"""From the raw output of a stranger's program to lines that are safe to keep and to show in a terminal in a page. Pure.

What remains of a line is text and colours. Everything else that a terminal would obey (moving the cursor, setting the
title, answering with device codes, links) is gone, and so is what a carriage return would have overwritten.
"""

from __future__ import annotations

import codecs
import re

MAX_LINE = 4000
"""Characters of a line; a longer one becomes several."""

_STRINGS = r"[\x1b\x9b]?(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
_ESCAPES = re.compile(
    rf"(?P<colour>\x1b\[[0-9;:]{{0,40}}m)"  # select graphic rendition, ECMA-48 8.3.117: the one that stays
    rf"|{_STRINGS}"  # OSC, DCS, SOS, PM, APC, each up to its terminator
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # every other control sequence
    r"|\x1b[ -/]*[0-~]?"  # every other escape
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # what is left of C0 and C1, but for the tab
)
_UNFINISHED_COLOUR = re.compile(r"\x1b(?:\[[0-9;:]*)?$")


def safe_line(text: str) -> str:
    """One line without its end, rid of all terminal sequences but colours, and of what ``\\r`` overwrote."""
    shown = text.rstrip("\r").rpartition("\r")[2]
    return _ESCAPES.sub(lambda found: found.group("colour") or "", shown)


def plain_text(text: str) -> str:
    """For a sentence: without colours too, and without anything that is not seen and yet changes how others are read."""
    return "".join(letter if letter.isprintable() else " " for letter in _ESCAPES.sub("", text))


class LineSplitter:
    """Bytes as a pipe gives them in, whole and safe lines out."""

    def __init__(self) -> None:
        # An incremental decoder, so that a character cut in two by the pipe stays one.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that these bytes complete, invalid UTF-8 replaced."""
        *whole, self._pending = (self._pending + self._decoder.decode(data)).split("\n")
        lines = [piece for line in whole for piece in _pieces(safe_line(line))]
        if len(self._pending) > MAX_LINE:
            lines.extend(self._relieve())
        return lines

    def finish(self) -> list[str]:
        """What came after the last line's end, when nothing more comes."""
        rest = self._pending + self._decoder.decode(b"", final=True)
        self._pending = ""
        return _pieces(safe_line(rest)) if rest else []

    def _relieve(self) -> list[str]:
        """Keeps a line that does not end from filling the memory: progress is dropped, text is passed on in pieces."""
        kept, separator, last = self._pending.rpartition("\r")
        if separator and last:
            self._pending = last
        elif separator:
            self._pending = kept.rpartition("\r")[2] + separator
        if len(self._pending) <= MAX_LINE:
            return []
        *full, self._pending = _cut(self._pending)
        return [safe_line(piece) for piece in full]


def _pieces(line: str) -> list[str]:
    return _cut(line) if len(line) > MAX_LINE else [line]


def _cut(text: str) -> list[str]:
    """Pieces of at most `MAX_LINE` characters; none ends within a colour."""
    pieces: list[str] = []
    while len(text) > MAX_LINE:
        end = MAX_LINE
        if (unfinished := _UNFINISHED_COLOUR.search(text[end - 45 : end])) is not None:
            end -= len(unfinished.group())
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text]
