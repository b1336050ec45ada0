"""Before a session ends that nobody uses: the warning, and “Stay”. The culler's arbiter tells of it at `internal`."""

from datetime import UTC, datetime, timedelta

from replay_build_service.domain import Launch, LaunchId
from replay_build_service.lifetimes import in_words
from replay_build_service.records import SessionEnd
from replay_build_service.schemas import SessionEndModel
from replay_build_service.web.base import ApiHandler, HubHandler, PageHandler


def ending_sentence(end: SessionEnd, now: datetime) -> str:
    """When a session ends if nobody uses it, for its person; empty where that is not known."""
    if end.ends_at is None or end.limit is None:
        return ""
    left = end.ends_at - now
    if left < timedelta(minutes=1):
        return f"This session ends any moment now: it was last used {in_words(end.limit)} ago."
    minutes = in_words(timedelta(minutes=int(left.total_seconds() / 60)))
    at = f"{end.ends_at.astimezone(UTC):%H:%M} UTC"
    return f"This session ends at {at}, in about {minutes}: {in_words(end.limit)} after it was last used."


def ending_model(launch: Launch | None, end: SessionEnd | None) -> SessionEndModel:
    """The same for programs."""
    if launch is None or end is None:
        return SessionEndModel(launch=None if launch is None else launch.id)
    return SessionEndModel(launch=launch.id, ends_at=end.ends_at, sentence=ending_sentence(end, datetime.now(UTC)))


async def _stay(handler: HubHandler, launch_id: str) -> None:
    handler.site.launch_limit.take(handler.person.name)
    launch = await handler.site.launches.get(handler.person, LaunchId(launch_id))
    await handler.site.launches.endings.stay(launch)


class StayForm(PageHandler):
    """``POST launches/ID/stay``: the button beside the warning."""

    async def post(self, launch_id: str) -> None:
        await _stay(self, launch_id)
        self.redirect(self.site.base_url, status=303)


class StayApi(ApiHandler):
    """``POST api/launches/ID/stay``: the same for programs."""

    async def post(self, launch_id: str) -> None:
        await _stay(self, launch_id)
        self.set_status(204)


class SessionApi(ApiHandler):
    """``GET api/session``: whether the session of whoever asks is about to end. A page that stays open asks each minute."""

    async def get(self) -> None:
        self.site.look_limit.take(self.person.name)
        holder = await self.site.store.holder(self.person.name, "")
        self.write_json(ending_model(holder, await self.site.launches.endings.near(holder)))
