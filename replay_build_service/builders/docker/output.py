"""repo2docker's log, one JSON object a line, into the build's log: phases, and lines that are safe to show."""

from __future__ import annotations

import json
import re
from contextlib import suppress

from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.detached.terminal_text import LineSplitter
from replay_build_service.domain import Phase

_MOST = 1024 * 1024
"""Bytes of one line of the log. What is longer is no longer taken apart, only shown."""

_PUSHING = re.compile(r"#\d+ pushing \S+")
"""How BuildKit's plain progress announces the push. What a step prints stands behind a time: ``#5 0.12 …``."""

_PROGRAM_FAILED = "Error during build: Command '"
"""repo2docker's words for a failed ``docker buildx build``, with the whole command line. The lines before say why."""


class Repo2dockerOutput:
    """Implements `Output`."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self._pending = b""
        self._is_broken = False
        """Within a line that is too long."""
        self._splitter = LineSplitter()
        self._ready: list[str] = []
        self._written: list[str] = []
        self._is_new_line = True
        self.is_pushing = False
        self.error: str | None = None
        """What repo2docker itself said when it gave up, where it was more than that a program failed."""

    def feed(self, data: bytes) -> list[str]:
        """See `Output`."""
        *whole, pending = (self._pending + data).split(b"\n")
        for line in whole:
            self._take(line)
        if len(pending) > _MOST:
            self._ready += self._splitter.feed(pending)
            self._is_broken, pending = True, b""
        self._pending = pending
        return self._told()

    def finish(self) -> list[str]:
        """See `Output`."""
        rest, self._pending = self._pending, b""
        if rest:
            self._take(rest)
        self._ready += self._splitter.finish()
        return self._told()

    def _take(self, line: bytes) -> None:
        value: object = None
        if not self._is_broken:
            with suppress(ValueError, RecursionError):
                value = json.loads(line)
        self._is_broken = False
        match value:
            case {"phase": "failed", "message": str(message)} if message.startswith(_PROGRAM_FAILED):
                pass
            case {"phase": "failed", "message": str(message)}:
                self.error = message.removeprefix("Error during build: ").strip()
                self._show(message.rstrip("\n") + "\n")
            case {"message": str(message)}:
                # repo2docker also ends a record where a step printed a carriage return: what follows is still the step's.
                is_a_line, self._is_new_line = self._is_new_line, message.endswith("\n")
                if is_a_line and not self.is_pushing and _PUSHING.match(message):
                    self._write()
                    self.is_pushing = True
                    self._log.enter(Phase.PUSHING, "Pushing the image to the registry.")
                self._show(message)
            case _:
                self._ready += self._splitter.feed(line + b"\n")

    def _show(self, text: str) -> None:
        self._ready += self._splitter.feed(text.encode(errors="replace"))

    def _write(self) -> None:
        """What is ready goes to the log, before another phase begins there."""
        self._log.lines(self._ready)
        self._written += self._ready
        self._ready = []

    def _told(self) -> list[str]:
        self._write()
        told, self._written = self._written, []
        return told
