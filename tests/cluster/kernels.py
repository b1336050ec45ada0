"""A cell that runs in a session, by the API that JupyterLab itself uses."""

import asyncio
import json
import uuid
from typing import Any

import httpx
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.site import ApiClient

SECONDS = 90


def printed_by_a_cell(client: ApiClient, code: str) -> str:
    """What a cell prints in a new kernel of this person's server. Fails with its error."""
    return printed_in_a_kernel(_server_of(client), f"token {client.token}", code)


def printed_in_a_kernel(server: str, authorization: str, code: str) -> str:
    """The same, for a server's URL, with a slash at its end."""
    return asyncio.run(_run(server, authorization, code))


def kernel_after(client: ApiClient, code: str) -> str:
    """The state that a kernel tells of itself instead of an answer: ``restarting`` or ``dead``."""
    return asyncio.run(_run(_server_of(client), f"token {client.token}", code, expect_end=True))


def _server_of(client: ApiClient) -> str:
    server = client.site.server(client.person)
    assert server is not None, "there is no server"
    return f"{client.site.url}{server['url']}"


async def _run(server: str, authorization: str, code: str, *, expect_end: bool = False) -> str:
    inside, headers = f"{server}api/kernels", {"Authorization": authorization}
    made = httpx.post(inside, json={"name": "python3"}, headers=headers, timeout=60)
    assert made.status_code == 201, made.text
    kernel = made.json()["id"]
    url = f"{inside.replace('http', 'ws', 1)}/{kernel}/channels?session_id={uuid.uuid4().hex}"
    connection = await websocket_connect(HTTPRequest(url, headers=headers))
    try:
        request = _request(code)
        await connection.write_message(json.dumps(request))
        async with asyncio.timeout(SECONDS):
            return await _answer(connection, request["header"]["msg_id"], expect_end=expect_end)
    finally:
        connection.close()


async def _answer(connection: WebSocketClientConnection, request: str, *, expect_end: bool) -> str:
    printed = ""
    while True:
        text = await connection.read_message()
        assert text is not None, f"the connection to the kernel ended: {printed}"
        message: dict[str, Any] = json.loads(text)
        content, kind = message["content"], message["msg_type"]
        if kind == "status" and content["execution_state"] in {"restarting", "dead"}:
            assert expect_end, f"the kernel is {content['execution_state']}: {printed}"
            return content["execution_state"]
        if message["parent_header"].get("msg_id") != request:
            continue
        if kind == "stream":
            printed += content["text"]
        assert kind != "error", content
        if kind == "execute_reply":
            assert not expect_end, "the cell ran to its end"
            return printed


def _request(code: str) -> dict[str, Any]:
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": uuid.uuid4().hex, "version": "5.3", "date": ""}  # fmt: skip
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    return {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
        "channel": "shell",
    }
