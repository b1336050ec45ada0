"""JSON: launches for programs, health, badges."""

import logging
from typing import Any

from pydantic import ValidationError
from tornado import web

from replay_build_service.domain import LaunchId
from replay_build_service.errors import SourceFault
from replay_build_service.schemas import LaunchModel, LaunchRequest
from replay_build_service.web.base import ApiHandler, PlainHandler
from replay_build_service.wishes import Wish

log = logging.getLogger(__name__)


class LaunchesApi(ApiHandler):
    """``POST api/launches``: the consent of a person who uses a token. With a cookie it takes the page's XSRF token."""

    async def post(self) -> None:
        try:
            request = LaunchRequest.model_validate_json(self.request.body)
        except ValidationError as error:
            self.site.launch_limit.take(self.person.name)
            raise web.HTTPError(400, first_problem(error)) from error
        await self.take(self.site.launch_limit, request.repo, request.content)
        launch = await self.site.launches.create(self.person, Wish(**request.model_dump()))
        self.write_json(LaunchModel.of(launch, self.site.base_url), 201)


class LaunchApi(ApiHandler):
    """``GET`` and ``DELETE api/launches/ID``."""

    async def get(self, launch_id: str) -> None:
        launch = await self.site.launches.get(self.person, LaunchId(launch_id))
        self.write_json(LaunchModel.of(launch, self.site.base_url))

    async def delete(self, launch_id: str) -> None:
        self.site.launch_limit.take(self.person.name)
        await self.site.launches.give_up(self.person, LaunchId(launch_id))
        self.set_status(204)


class Health(PlainHandler):
    """``GET health``: 200 where the database answers, else 503."""

    async def get(self) -> None:
        try:
            await self.site.store.ping()
        except Exception as error:
            # Whatever the reason, the answer to “are you well?” is no, and the log has the trace.
            log.exception("The database does not answer")
            raise SourceFault("The database does not answer.") from error
        self.set_header("Content-Type", "application/json")
        self.finish('{"ok": true}')


class Badge(web.StaticFileHandler):
    """``/badge_logo.svg`` and ``/badge.svg``: for any page in the world."""

    def initialize(self, path: str, file: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - one file, whatever the address
        super().initialize(path)
        self._file = file

    async def get(self, path: str = "", include_body: bool = True) -> None:
        await super().get(self._file, include_body)

    async def head(self, path: str = "") -> None:
        await self.get(include_body=False)

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cache-Control", "public, max-age=3600")
        self.set_header("X-Content-Type-Options", "nosniff")


def first_problem(error: ValidationError) -> str:
    """What is wrong with what somebody sent, as a sentence."""
    problem: Any = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"]) or "the body"
    return f"{field}: {problem['msg']}."
