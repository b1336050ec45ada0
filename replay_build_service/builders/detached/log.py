"""The log of a detached build: one JSON object a line, in a file that its runner alone writes and anybody may follow.

A position is the byte after the last whole line that was read, so that a reader who comes back has neither a gap nor
a repeat, and a line that is still being written is left for the next look.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Protocol

from replay_build_service.builders.base import LogChunk, LogRecord
from replay_build_service.builders.detached.terminal_text import MAX_LINE, safe_line
from replay_build_service.domain import EventKind, Phase

MAX_RECORDS = 500
"""Records of a chunk."""

_READ_BYTES = 256 * 1024

_PHASES = frozenset({Phase.WAITING, Phase.FETCHING, Phase.BUILDING, Phase.PUSHING})
"""What a log may tell. How a build ended is told by its outcome, and what comes of it by the launch."""

_KINDS = frozenset(EventKind)

_LATEST = 4_102_444_800
"""The first second of the year 2100. A record from there is none."""


class Telling(Protocol):
    """Is told what is being done."""

    def enter(self, phase: Phase, text: str) -> None:
        """A phase begins; the lines that follow belong to it. Raises `OSError`."""
        ...

    def lines(self, texts: list[str]) -> None:
        """Lines of the present phase. Raises `OSError`."""
        ...


class LogWriter:
    """Appends records. What it has written, in bytes, is what a limit on output counts."""

    def __init__(self, path: Path) -> None:
        self._own_folder = f"{path.parent}{os.sep}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._phase = Phase.WAITING
        self.written = 0
        """Bytes so far."""

    def enter(self, phase: Phase, text: str) -> None:
        """A phase begins; the lines that follow belong to it. Raises `OSError`."""
        self._phase = phase
        self._write([(EventKind.PHASE, text)])

    def lines(self, texts: list[str]) -> None:
        """Lines of the present phase, in one write, with paths as seen from the build's folder. Raises `OSError`."""
        if texts:
            self._write([(EventKind.LINE, text.replace(self._own_folder, "")) for text in texts])

    def _write(self, records: list[tuple[EventKind, str]]) -> None:
        at = round(time.time(), 3)
        data = "".join(
            json.dumps(
                {"kind": kind, "phase": self._phase, "text": text, "at": at}, ensure_ascii=False, separators=(",", ":")
            )
            + "\n"
            for kind, text in records
        ).encode("utf-8", errors="replace")
        self.written += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]


def read_chunk(path: Path, position: int) -> LogChunk:
    """Up to `MAX_RECORDS` whole records from ``position`` on; none where there is nothing new. Raises `OSError`.

    The build could reach the file, and may have scribbled in it: a line that is no record is passed over, and so is one
    that tells of more than the build's own way. The text of all others is made safe.
    """
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(_READ_BYTES)
    except FileNotFoundError:
        return LogChunk((), position)
    records, length = parse_records(data)
    if length == 0 and len(data) == _READ_BYTES:
        length = len(data)  # Longer than any record of ours can be.
    return LogChunk(records, position + length)


def parse_records(data: bytes) -> tuple[list[LogRecord], int]:
    """Up to `MAX_RECORDS` whole records from the beginning of these bytes, and how many bytes they are."""
    records: list[LogRecord] = []
    start = 0
    while len(records) < MAX_RECORDS and (end := data.find(b"\n", start)) >= 0:
        if (record := _record(data[start:end])) is not None:
            records.append(record)
        start = end + 1
    return records, start


def _record(line: bytes) -> LogRecord | None:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match value:
        case {"kind": str(kind), "phase": str(phase), "text": str(text), "at": float() | int() as at}:
            pass
        case _:
            return None
    if kind not in _KINDS or phase not in _PHASES or not 0 <= at < _LATEST:
        return None
    return LogRecord(EventKind(kind), Phase(phase), _safe_text(text), float(at))


def _safe_text(text: str) -> str:
    """As the writer would have written it: one line, of what a page may show and a database may keep."""
    whole = text.encode("utf-8", errors="replace").decode("utf-8").replace("\n", " ")
    return safe_line(whole)[:MAX_LINE]
