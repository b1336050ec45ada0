"""Typing into a terminal of a Jupyter server, by the websocket that JupyterLab itself uses."""

import asyncio
import json
from collections.abc import Mapping

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

SECONDS = 60


async def opened(address: str, headers: Mapping[str, str], name: str) -> WebSocketClientConnection:
    """A terminal's page; ``address`` is the server's, with a slash at its end."""
    url = f"ws{address.removeprefix('http')}terminals/websocket/{name}"
    return await websocket_connect(HTTPRequest(url, headers=dict(headers)))


async def typed(terminal: WebSocketClientConnection, text: str, until: str) -> None:
    """Type, and see what is printed."""
    await terminal.write_message(json.dumps(["stdin", text]))
    said = ""
    async with asyncio.timeout(SECONDS):
        while until not in said:
            message = await terminal.read_message()
            assert message is not None, said
            kind, *rest = json.loads(message)
            said += rest[0] if kind == "stdout" else ""
