"""``POST api/resolve``: from anything that somebody pastes to the link that it means. Starts nothing and stores nothing."""

from pydantic import ValidationError
from tornado import web

from replay_build_service.link_schemas import ResolvedLink, ResolveRequest
from replay_build_service.web.api import first_problem
from replay_build_service.web.base import ApiHandler


class ResolveApi(ApiHandler):
    """For programs with a token, and for pages with the cookie and its XSRF token. Counts as a launch does, since it may ask outside."""

    async def post(self) -> None:
        self.site.launch_limit.take(self.person.name)
        try:
            request = ResolveRequest.model_validate_json(self.request.body)
        except ValidationError as error:
            raise web.HTTPError(400, first_problem(error)) from error
        self.write_json(ResolvedLink.of(await self.site.pasted.find(self.person, request.text)))
