"""JSON: launches for programs, the spawner's own door, health, badges."""

import hmac
import logging
from typing import Any

from pydantic import ValidationError
from tornado import web

from replay_build_service.domain import NO_NAMED_SERVERS, LaunchId, Person, Planned, Wish
from replay_build_service.errors import Refused, SourceFault
from replay_build_service.schemas import (
    ImageModel,
    LaunchModel,
    LaunchPlan,
    LaunchRequest,
    PlacementModel,
    PlanRequest,
    ResourcesModel,
)
from replay_build_service.web.base import ApiHandler, PlainHandler

log = logging.getLogger(__name__)


class LaunchesApi(ApiHandler):
    """``POST api/launches``: the consent of a person who uses a token. With a cookie it takes the page's XSRF token."""

    async def post(self) -> None:
        try:
            request = LaunchRequest.model_validate_json(self.request.body)
        except ValidationError as error:
            self.site.launch_limit.take(self.person.name)
            raise web.HTTPError(400, _first_problem(error)) from error
        await self.take(self.site.launch_limit, request.repo)
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


class PlanDoor(PlainHandler):
    """``POST internal/plan``: for the spawner alone, with the service's own token."""

    async def post(self) -> None:
        given = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = self.site.internal_token
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            raise web.HTTPError(401, "This is for the hub's spawner.")
        try:
            request = PlanRequest.model_validate_json(self.request.body)
        except ValidationError as error:
            raise web.HTTPError(400, _first_problem(error)) from error
        self.write_json(await self._plan_of(await self._planned(request)))

    async def _planned(self, request: PlanRequest) -> Planned:
        launches = self.site.launches
        if request.server_name:
            raise Refused(NO_NAMED_SERVERS)
        if request.launch is not None:
            return await launches.plan(
                LaunchId(request.launch), request.user, request.server_name, frozenset(request.groups)
            )
        if request.repo is None:
            raise web.HTTPError(400, "Neither a launch nor a repository was named.")
        person = Person(request.user, frozenset(request.groups))
        await self.take_of(self.site.launch_limit, person, request.repo)
        wish = Wish(request.repo, request.vo, request.urlpath, None, request.server_name)
        return await launches.create_now(person, wish)

    async def _plan_of(self, planned: Planned) -> LaunchPlan:
        launch, policy = planned.launch, planned.policy
        session = await self.site.builds.session(planned.image)
        return LaunchPlan(
            launch=launch.id,
            vo=launch.vo,
            repository=launch.resolved.repository.url,
            version=launch.resolved.version,
            link=f"/v2/{launch.resolved.spec.text}",
            image=planned.image.reference,
            location=planned.image.location,
            container=ImageModel.of(session.configuration) if session.configuration else None,
            command=list(session.command),
            environment=dict(session.environment),
            source=session.source,
            resources=ResourcesModel.of(policy.resources),
            placement=PlacementModel.of(policy.placement),
            features=list(launch.features),
            maximum_age=policy.maximum_age.total_seconds() if policy.maximum_age else None,
        )


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


def _first_problem(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"]) or "the body"
    return f"{field}: {problem['msg']}."
