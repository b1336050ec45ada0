"""Running the programs of a build inside its runner: their output to the log, their limits, and nothing of them left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from replay_build_service.builders.detached.failures import Unbuildable, output_limit_failure
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.detached.processes import end_descendants
from replay_build_service.builders.detached.terminal_text import LineSplitter

_KEPT_LINES = 200
"""The last lines of a program, from which the reason of its failure is made."""

_READ_BYTES = 64 * 1024

_WITH_MEMORY_LIMIT = 'ulimit -v "$0" && exec "$@"'
"""For a POSIX shell: the address space of what is run, in KiB, as ``$0``."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    status: int
    """As `subprocess` has it: negative for a signal."""
    last_lines: tuple[str, ...]


class Output(Protocol):
    """Takes what a program prints, as its pipe gives it, and writes it to the build's log."""

    def feed(self, data: bytes) -> list[str]:
        """The lines that these bytes complete, which are in the log now. Raises `OSError`."""
        ...

    def finish(self) -> list[str]:
        """What came after the last line's end. Raises `OSError`."""
        ...


class PlainOutput:
    """Lines of text, as most programs print them."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self._splitter = LineSplitter()

    def feed(self, data: bytes) -> list[str]:
        """See `Output`."""
        return self._told(self._splitter.feed(data))

    def finish(self) -> list[str]:
        """See `Output`."""
        return self._told(self._splitter.finish())

    def _told(self, lines: list[str]) -> list[str]:
        self._log.lines(lines)
        return lines


class BuildCommands:
    """Runs one program after the other. What they print goes to the log, line by line, and counts together."""

    def __init__(self, log: LogWriter, output_limit: int, memory_limit: int | None) -> None:
        self.log = log
        self.memory_limit = memory_limit
        self._output_limit = output_limit
        self._printed = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._has_ended = asyncio.Event()

    async def run(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], output: Output | None = None
    ) -> CommandResult:
        """Runs a program to its end, and ends whatever it left running.

        Raises `Unbuildable` beyond the limit on output, `OSError` where it cannot be started.
        """
        if self.memory_limit is not None:
            command = ("/bin/sh", "-c", _WITH_MEMORY_LIMIT, str(self.memory_limit // 1024), *command)
        loop = asyncio.get_running_loop()
        self._has_ended.clear()
        loop.add_signal_handler(signal.SIGCHLD, self._take_leave)
        read_end, write_end = os.pipe()
        pipe = os.fdopen(read_end, "rb", buffering=0)
        try:
            try:
                process = self._process = subprocess.Popen(  # noqa: ASYNC220  the runner's loop serves this build alone
                    command,
                    cwd=folder,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=write_end,
                )
            finally:
                os.close(write_end)
            self._take_leave()
            last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(pipe, output or PlainOutput(self.log), last_lines))
                await self._has_ended.wait()
                end_descendants()  # Whoever is left holds the pipe open.
            if not reading.result():
                failure = output_limit_failure(self._output_limit)
                raise Unbuildable(failure.reason, failure.message)
            return CommandResult(process.returncode, tuple(last_lines))
        finally:
            loop.remove_signal_handler(signal.SIGCHLD)
            pipe.close()

    async def _read(self, pipe: object, output: Output, last_lines: deque[str]) -> bool:
        """Until the end of the output, or False at the limit, where the program is ended."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READ_BYTES)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while data := await reader.read(_READ_BYTES):
                self._printed += len(data)
                last_lines.extend(output.feed(data))
                if max(self._printed, self.log.written) > self._output_limit:
                    if self._process is not None and self._process.poll() is None:
                        self._process.kill()
                    return False
            last_lines.extend(output.finish())
        finally:
            transport.close()
        return True

    def _take_leave(self) -> None:
        """A child ended: the program, or an orphan that came to this process as its reaper."""
        if self._process is not None and self._process.poll() is not None:
            self._has_ended.set()
        with suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if self._process is not None and ended.si_pid == self._process.pid:
                    self._process.poll()
                    self._has_ended.set()
                else:
                    os.waitpid(ended.si_pid, os.WNOHANG)


async def capture(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Status and output of a trusted program that says little; what it prints as errors is dropped. Raises `OSError`."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")
