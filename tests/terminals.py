"""Typing into a terminal of a Jupyter server, by the websocket that JupyterLab itself uses."""

import asyncio
import json
from collections.abc import Mapping

import stamina
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

SECONDS = 60


async def opened(address: str, headers: Mapping[str, str], name: str) -> WebSocketClientConnection:
    """A terminal's page; ``address`` is the server's, with a slash at its end."""
    url = f"ws{address.removeprefix('http')}terminals/websocket/{name}"
    return await websocket_connect(HTTPRequest(url, headers=dict(headers)))


async def interrupted(terminal: WebSocketClientConnection) -> None:
    """End what runs in front, and have the shell at its prompt again.

    What is typed while that takes the terminal back may be thrown away, so it is asked until it answers.
    """
    await typed(terminal, "\x03", "^C")
    async for attempt in stamina.retry_context(on=TimeoutError, timeout=SECONDS, wait_max=0.1, attempts=None):
        with attempt:
            await typed(terminal, "echo $((4000 + 4))\r", "4004", seconds=3)


async def typed(terminal: WebSocketClientConnection, text: str, until: str, seconds: float = SECONDS) -> None:
    """Type, and see what is printed."""
    await terminal.write_message(json.dumps(["stdin", text]))
    said = ""
    async with asyncio.timeout(seconds):
        while until not in said:
            message = await terminal.read_message()
            assert message is not None, said
            kind, *rest = json.loads(message)
            said += rest[0] if kind == "stdout" else ""
