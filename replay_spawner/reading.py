"""``POST {hub}/api/replay/sessions/USER/reading``: a way in to read a running session, for somebody who may open it anyway.

The build service packs what a person made. It comes with that person's own token, so that it reads nothing of people who did not ask;
and it must not show that token to the session, where a stranger's code runs, since the token opens the service too. So the hub
gives it another: for this one server alone, which is no more than the session's own token may do, and not for long.
"""

import json
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from pydantic import ValidationError
from tornado import web

from replay_build_service.schemas import ReadingModel, ReadingRequest
from replay_spawner.plans import launch_in

READING_SECONDS = 120
"""How long one way in lasts. Who needs it for longer asks anew, and may be refused then."""

_NOTE = "Replay reads the session of launch"
"""Begins the note of each way in, which says in the hub's list of tokens what it is."""

WAYS_IN = (_NOTE, "Replay looks whether the server ")
"""How the notes of all tokens begin that a session is shown: this room's, and the culler's (`replay_spawner.idle.door`)."""


def end_ways_in(user: Any) -> None:
    """Remove what a person's sessions were shown: it would open the next one, too. At the end of each."""
    shown = [token for token in user.orm_user.api_tokens if (token.note or "").startswith(WAYS_IN)]
    for token in shown:
        user.db.delete(token)
    if shown:
        user.db.commit()


READING_PATH = r"/api/replay/sessions/(?P<user_name>[^/]+)/reading"


class ReadingHandler(APIHandler):
    """Takes tokens only: of the person, or of whoever else may access their server."""

    @needs_scope("access:servers")
    async def post(self, user_name: str) -> None:
        if not getattr(self, "_token_authenticated", False):
            raise web.HTTPError(403, "This is for programs: send a token.")
        if str(getattr(self.get_token(), "note", "")).startswith(_NOTE):
            # It is shown to the session, which could otherwise keep itself a way in for as long as it likes.
            raise web.HTTPError(403, "A way in gives no other.")
        try:
            request = ReadingRequest.model_validate_json(self.request.body)
        except ValidationError as error:
            raise web.HTTPError(400, "Name the launch that is to be read.") from error
        user: Any = self.find_user(user_name)
        spawner: Any = user.spawners.get("") if user is not None else None
        if (
            user is None
            or spawner is None
            or not spawner.ready
            or launch_in(spawner.user_options or {}) != request.launch
        ):
            raise web.HTTPError(404, "No session of that launch is running.")
        token: str = user.new_api_token(
            note=f"{_NOTE} {request.launch} for its person",
            scopes=[f"access:servers!server={user.name}/"],
            expires_in=READING_SECONDS,
        )
        answer = ReadingModel(url=spawner.server.url, token=token, seconds=READING_SECONDS)
        self.set_header("Cache-Control", "no-store")
        # What holds a token is shown by no model of ours.
        self.finish(json.dumps(answer.model_dump()))
