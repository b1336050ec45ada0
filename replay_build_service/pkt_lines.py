"""The frames that git's protocols are made of: pkt-lines, from bytes and to bytes (https://git-scm.com/docs/protocol-common).

Pure, and for bytes of strangers: whatever they are, what is not in that form is `MalformedLines`. What a line says is not known here.

Our own, since it is a page: dulwich's parser comes with all of git in Python, and reads from a stream, where here is a whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

__all__ = ["MalformedLines", "Mark", "pkt_line", "read_lines"]

LONGEST_LINE = 65_516
"""Bytes of a line, its length aside."""

_LENGTH = re.compile(rb"[0-9a-fA-F]{4}")  # int() alone would take signs, spaces and underscores, too


class MalformedLines(Exception):
    """These bytes are no pkt-lines, or end within one."""


class Mark(Enum):
    """What stands between lines, and is written as a length that no line has."""

    FLUSH = b"0000"
    """The end of a message."""
    DELIMITER = b"0001"
    """The end of a part of one (protocol version 2)."""
    END = b"0002"
    """The end of a response over HTTP (protocol version 2)."""


_MARKS = {int(mark.value, 16): mark for mark in Mark}


def read_lines(data: bytes) -> Iterator[bytes | Mark]:
    """The lines, without the newline at their end, and the marks between them. Raises `MalformedLines`, where it comes to that."""
    at = 0
    while at < len(data):
        if not _LENGTH.match(data, at):
            raise MalformedLines("no length")
        length = int(data[at : at + 4], 16)
        mark = _MARKS.get(length)
        if mark is not None:
            yield mark
            at += 4
            continue
        if not 4 <= length <= LONGEST_LINE + 4 or at + length > len(data):
            raise MalformedLines("a length that cannot be")
        yield data[at + 4 : at + length].removesuffix(b"\n")
        at += length


def pkt_line(text: str) -> bytes:
    """A line of a request, with a newline. Raises `ValueError` where it is too long for one."""
    line = text.encode() + b"\n"
    if len(line) > LONGEST_LINE:
        raise ValueError("A line of git's protocol holds at most 65516 bytes.")
    return b"%04x" % (len(line) + 4) + line
