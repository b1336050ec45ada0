"""The service's pages and API over a port of this machine, with whatever a test has for the site."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from replay_build_service.web import make_application


@asynccontextmanager
async def served(site: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of it, whose addresses begin at the site's own."""
    server = HTTPServer(make_application(site, b"secret"))
    socket, port = bind_unused_port()
    server.add_socket(socket)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}{site.base_url}", trust_env=False) as client:
        yield client
    server.stop()
    await server.close_all_connections()
