"""A session's server for tests of the idle culler's arbiter: it answers as Jupyter does, or as the test likes."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.websocket import WebSocketHandler


def ago(minutes: float, now: datetime | None = None) -> str:
    return ((now or datetime.now(UTC)) - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


@dataclass
class Jupyter:
    """Answers by path; a function answers as it likes. Remembers what it was asked."""

    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: list[tuple[str, str, bytes]] = field(default_factory=list[tuple[str, str, bytes]])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    printed: Callable[[str], list[str]] = lambda typed: []
    address: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Jupyter"]:
        socket, port = bind_unused_port()
        server = HTTPServer(
            web.Application(
                [
                    (r"/user/ada/terminals/websocket/(.*)", _Terminal, {"jupyter": self}),
                    (r"/user/ada/(.*)", _Answer, {"jupyter": self}),
                ]
            )
        )
        server.add_socket(socket)
        self.address = f"http://127.0.0.1:{port}/user/ada/"
        try:
            yield self
        finally:
            server.stop()
            await server.close_all_connections()

    def paths(self, method: str = "GET") -> list[str]:
        return [path for known, path, _ in self.asked if known == method]


class _Answer(web.RequestHandler):
    def initialize(self, jupyter: Jupyter) -> None:
        self.jupyter = jupyter

    async def prepare(self) -> None:
        method, path = self.request.method or "", self.path_args[0]
        self.jupyter.asked.append((method, path, self.request.body))
        self.jupyter.headers.append(dict(self.request.headers))
        if path not in self.jupyter.answers and method == "GET":
            self.send_error(404)
            return
        answer = self.jupyter.answers.get(path, {})
        if callable(answer):
            await answer(self)
        else:
            self.finish(answer if isinstance(answer, bytes) else json.dumps(answer))


class _Terminal(WebSocketHandler):
    def initialize(self, jupyter: Jupyter) -> None:
        self.jupyter = jupyter

    def on_message(self, message: str | bytes) -> None:
        kind, typed = json.loads(message)
        assert kind == "stdin"
        for part in self.jupyter.printed(typed):
            self.write_message(part if part.startswith("{") else json.dumps(["stdout", part]))


KERNEL = {"id": "k", "name": "python3", "execution_state": "idle", "last_activity": ago(30), "connections": 1}
