"""What the hub's own programs ask and tell: the spawner, and the culler's arbiter. With the service's own token, for nobody else."""

import hmac
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from tornado import web

from replay_build_service.domain import NO_NAMED_SERVERS, LaunchId, Person
from replay_build_service.errors import Refused
from replay_build_service.schemas import (
    ActivityAnswer,
    ActivityReport,
    EndedReport,
    ImageModel,
    LaunchPlan,
    PlacementModel,
    PlanRequest,
    ResourcesModel,
)
from replay_build_service.web.api import first_problem
from replay_build_service.web.base import PlainHandler
from replay_build_service.web.share import link_to
from replay_build_service.wishes import Planned, Wish

_Model = TypeVar("_Model", bound=BaseModel)


class InternalHandler(PlainHandler):
    """Answers whoever brings the token that hub and service share."""

    async def prepare(self) -> None:
        given = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = self.site.internal_token
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            raise web.HTTPError(401, "This is for the hub's own programs.")

    def told(self, kind: type[_Model]) -> _Model:
        """The request's body. Raises 400 where it is something else."""
        try:
            return kind.model_validate_json(self.request.body)
        except ValidationError as error:
            raise web.HTTPError(400, first_problem(error)) from error


class PlanDoor(InternalHandler):
    """``POST internal/plan``: for the spawner alone, with the service's own token."""

    async def post(self) -> None:
        request = self.told(PlanRequest)
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
            link=link_to(launch.resolved, launch.content),
            urlpath=launch.urlpath,
            build=launch.build_id,
            created_at=launch.created_at,
            image=planned.image.reference,
            location=planned.image.location,
            container=ImageModel.of(session.configuration) if session.configuration else None,
            command=list(session.command),
            environment=dict(session.environment),
            source=session.source,
            content=None if launch.content is None else self.site.launches.contents.given(launch.content),
            resources=ResourcesModel.of(policy.resources),
            placement=PlacementModel.of(policy.placement),
            features=list(launch.features),
            maximum_age=policy.maximum_age.total_seconds() if policy.maximum_age else None,
        )


class EndedDoor(InternalHandler):
    """``POST internal/ended``: the spawner tells why a session ended that nobody stopped. 409 where it does not run yet."""

    async def post(self) -> None:
        report = self.told(EndedReport)
        await self.site.launches.lifetimes.ended_by_itself(LaunchId(report.launch), report.reason)
        self.set_status(204)


class ActivityDoor(InternalHandler):
    """``POST internal/activity``: for the culler's arbiter, of a session whose end is near, or is not near any more."""

    async def post(self) -> None:
        kept_ago = await self.site.launches.endings.used(self.told(ActivityReport))
        self.write_json(ActivityAnswer(kept_ago=kept_ago))
