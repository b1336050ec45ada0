"""Whether something runs in a terminal of a session, as its kernel's process table has it.

Jupyter tells of a terminal only when it last printed something. So a shell of its own is opened there for a moment, as its
person could, which prints ``/proc/*/stat`` (proc_pid_stat(5)) and ends. Nothing is installed, no interpreter of theirs is used.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from replay_spawner.idle.reading import MOST_BYTES, NoReading, NotThere, SessionServer

TERMINAL_SECONDS = 6.0
"""A shell may read long files of its person's before it reads what is typed."""

_STAT = "cat /proc/[0-9]*/stat 2>/dev/null"
_MOST_MESSAGES = 2000

_NAME = re.compile(r"\w{1,64}", re.ASCII)
_NAMED = TypeAdapter(dict[str, str | None])


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    state: str
    parent: int
    group: int
    session: int
    terminal: int
    foreground: int
    """The process group that has the terminal."""


async def has_foreground(server: SessionServer, ours: set[str]) -> bool:
    """Whether a program has a terminal of the session, its own shells at their prompts aside. Raises `NoReading`.

    While it is looked at, and after where it could not be closed, the terminal opened for it is in ``ours``.
    """
    _, body = await server.ask("POST", "api/terminals", {})
    name = _name_in(body)
    ours.add(name)
    try:
        return runs_in(await _printed(server, name))
    except ValueError as error:
        raise NoReading("Its terminal printed something else") from error
    finally:
        await close(server, ours)


async def close(server: SessionServer, ours: set[str]) -> None:
    """Close the terminals that were opened to look: one that printed all has ended by itself. Raises `NoReading`."""
    for name in list(ours):
        with suppress(NotThere):
            await server.ask("DELETE", f"api/terminals/{name}")
        ours.discard(name)


def runs_in(printed: str) -> bool:
    """Whether the table shows a program that has a terminal of the server's.

    The first line has our own shell's pid and its parent's, which is the server: only what that started is the session's,
    since other sessions may be on the same machine. Raises `ValueError` where there is no such line.
    """
    head, _, table = printed.partition("\n")
    own, server = (int(word) for word in head.split())
    processes = list(_processes(table))
    shells = {
        one.pid
        for one in processes
        if one.parent == server and one.pid == one.session and one.terminal and one.pid != own
    }
    return any(
        one.session in shells and one.group == one.foreground and one.group != one.session and one.state != "Z"
        for one in processes
    )


def _processes(table: str) -> Iterator[_Process]:
    for line in table.splitlines():
        # A program's name is in parentheses and may hold anything, among it parentheses and ends of lines.
        before, _, after = line.rpartition(")")
        pid, fields = before.partition(" ")[0], after.split()
        if pid.isdecimal() and len(fields) > 5 and all(_is_number(field) for field in fields[1:6]):
            yield _Process(int(pid), fields[0], *(int(field) for field in fields[1:6]))


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _name_in(body: bytes) -> str:
    try:
        name = _NAMED.validate_json(body).get("name")
    except ValidationError:
        name = None
    if name is None or not _NAME.fullmatch(name):
        raise NoReading("It answered api/terminals with something else")
    return name


async def _printed(server: SessionServer, name: str) -> str:
    mark = secrets.token_hex(8)
    # What is typed is echoed: there the marks are two words. The space before keeps it out of most shells' history.
    typed = f' exec sh -c \'printf "%s-%s\\n" begin {mark}; echo "$$ $PPID"; {_STAT}; printf "%s-%s\\n" end {mark}\'\r'
    address = f"ws{server.address.removeprefix('http')}terminals/websocket/{name}"
    request = HTTPRequest(
        address,
        headers=server.headers,
        connect_timeout=TERMINAL_SECONDS,
        request_timeout=TERMINAL_SECONDS,
        follow_redirects=False,
    )
    try:
        async with asyncio.timeout(TERMINAL_SECONDS):
            socket = await websocket_connect(request, max_message_size=MOST_BYTES)
            try:
                await socket.write_message(json.dumps(["stdin", typed]))
                return await _between(socket, f"begin-{mark}\n", f"end-{mark}\n")
            finally:
                socket.close()
    except (TimeoutError, OSError, HTTPClientError, WebSocketError, ValueError, RecursionError) as error:
        raise NoReading(f"Its terminal did not answer: {type(error).__name__}") from error


async def _between(socket: WebSocketClientConnection, begin: str, end: str) -> str:
    text, size = "", 0
    for _ in range(_MOST_MESSAGES):
        message = await socket.read_message()
        if not isinstance(message, str):
            break
        size += len(message)
        match json.loads(message):
            case ["stdout", str(part)]:
                text += part.replace("\r", "")
            case _:
                continue
        if end in text[-len(part) - len(end) :] and begin in text:
            return text.partition(begin)[2].partition(end)[0]
        if size > MOST_BYTES:
            break
    raise NoReading("Its terminal printed something else")
