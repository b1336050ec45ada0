"""In the hub: where a session's server is, and a token that opens that one server for a moment.

The culler's own token may stop every server, so no session may ever see it: a session runs a stranger's program. What a
session gets to see is a token for itself alone, which is worth nothing there and nothing half a minute later.
"""

import json
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

TOKEN_SECONDS = 30
"""Longer than a look takes. The server's name outlives the session, so the token must not outlive the look by much."""


class ReadingDoor(APIHandler):
    """``POST api/replay/users/NAME/server/reading`` and ``…/servers/SERVER/reading``: for who may both stop and open that server.

    What it gives opens the server and cannot stop it, so with that nobody comes back here for more.
    """

    @needs_scope("delete:servers")
    @needs_scope("access:servers")
    def post(self, user_name: str, server_name: str = "") -> None:
        user: Any = self.find_user(user_name)
        spawner: Any = user.spawners.get(server_name) if user is not None else None
        if user is None or spawner is None or not spawner.ready or spawner.server is None:
            raise web.HTTPError(404, "There is no such server that runs.")
        token = self.current_user.new_api_token(  # pyright: ignore[reportOptionalMemberAccess] - the scopes are somebody's
            note=f"Replay looks whether the server {user.name}/{server_name} is used",
            expires_in=TOKEN_SECONDS,
            scopes=[f"access:servers!server={user.name}/{server_name}"],
        )
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps({"address": spawner.server.url, "token": token}))


def reading_handlers() -> list[tuple[Any, ...]]:
    """For ``c.JupyterHub.extra_handlers``."""
    return [
        (r"/api/replay/users/([^/]+)/server/reading", ReadingDoor),
        (r"/api/replay/users/([^/]+)/servers/([^/]+)/reading", ReadingDoor),
    ]
