"""What managers of a VO do with a form. Each is a POST with the hub's XSRF token, for the VO of its address, and limited in rate."""

from tornado import web

from replay_build_service.domain import LaunchId
from replay_build_service.errors import Conflict, ReplayError
from replay_build_service.managing.prepared import EventWish
from replay_build_service.records import Effect
from replay_build_service.web.managers import EventsPage, ManagerPage, RulesPage, link_parts


class StopSession(ManagerPage):
    """``vo/VO/sessions/ID/stop``."""

    async def post(self, vo: str, launch_id: str) -> None:
        reason = self.get_body_argument("reason", "")
        await self.site.managing.sessions.stop(self.manager, LaunchId(launch_id), reason)
        self.done("", "stopped")


class Rules(RulesPage):
    """``vo/VO/rules``, also as a POST: deny or exempt repositories."""

    async def post(self, vo: str) -> None:
        effect = self.get_body_argument("effect", "")
        if effect not in set(Effect):
            raise web.HTTPError(400, "A rule denies or allows. Choose one of them.")
        pattern, reason = self.get_body_argument("pattern", ""), self.get_body_argument("reason", "")
        await self.site.managing.decisions.rule(self.manager, Effect(effect), pattern, reason)
        self.done("rules", "ruled")


class RemoveRule(ManagerPage):
    """``vo/VO/rules/ID/remove``."""

    async def post(self, vo: str, rule_id: str) -> None:
        await self.site.managing.decisions.remove_rule(self.manager, rule_id)
        self.done("rules", "rule-removed")


class BlockPerson(ManagerPage):
    """``vo/VO/blocks``: block a person, and end what they have running for this VO where that is asked."""

    async def post(self, vo: str) -> None:
        managing, reason = self.site.managing, self.get_body_argument("reason", "")
        name = await managing.decisions.block(
            self.manager, self.get_body_argument("person", ""), reason, self.get_body_argument("until", "")
        )
        if not await managing.launches(self.manager, None, name):
            self.done("rules", "blocked-unseen")
            return
        if not self.get_body_argument("stop", ""):
            self.done("rules", "blocked")
            return
        try:
            await managing.sessions.stop_all_of(self.manager, name, reason)
        except ReplayError as error:
            raise Conflict(
                f"{name} can launch nothing for {self.manager.vo} from now on. What they have running could not be "
                f"stopped: {error.sentence}"
            ) from error
        self.done("rules", "blocked-and-stopped")


class LiftBlock(ManagerPage):
    """``vo/VO/blocks/lift``."""

    async def post(self, vo: str) -> None:
        await self.site.managing.decisions.lift_block(self.manager, self.get_body_argument("person", "")[:255])
        self.done("rules", "lifted")


class SetBanner(ManagerPage):
    """``vo/VO/banner``: a text of the managers' own, or the policy's again."""

    async def post(self, vo: str) -> None:
        await self.site.managing.decisions.set_banner(self.manager, own_text(self))
        self.done("rules", "banner")


class SetTerms(ManagerPage):
    """``vo/VO/terms``: as the banner."""

    async def post(self, vo: str) -> None:
        await self.site.managing.decisions.set_terms(self.manager, own_text(self))
        self.done("rules", "terms")


def own_text(handler: ManagerPage) -> str | None:
    """What was written; ``None`` where the policy's is wanted."""
    match handler.get_body_argument("action", ""):
        case "own":
            return handler.get_body_argument("text", "")
        case "policy":
            return None
        case _:
            raise web.HTTPError(400, "There is no such choice.")


class Events(EventsPage):
    """``vo/VO/events``, also as a POST: prepare one."""

    async def post(self, vo: str) -> None:
        repo, urlpath = link_parts(self.get_body_argument("link", ""))
        wish = EventWish(
            title=self.get_body_argument("title", ""),
            repo=repo,
            urlpath=urlpath,
            starts=self.get_body_argument("starts", ""),
            ends=self.get_body_argument("ends", ""),
            people=self.get_body_argument("people", ""),
        )
        event = await self.site.managing.events.prepare(self.manager, wish)
        self.done(f"events/{event.event.id}", "prepared")


class BuildAhead(ManagerPage):
    """``vo/VO/events/ID/build``."""

    async def post(self, vo: str, event_id: str) -> None:
        await self.site.managing.events.build_ahead(self.manager, event_id)
        self.done(f"events/{event_id}", "asked")


class CallOffEvent(ManagerPage):
    """``vo/VO/events/ID/call-off``."""

    async def post(self, vo: str, event_id: str) -> None:
        await self.site.managing.events.call_off(self.manager, event_id)
        self.done("events", "called-off")
