"""The session that runs, as home and its launch's page show it: ``_session.html``; and the end of one that nobody stopped."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from replay_build_service.domain import Launch, LaunchState, Person, Server, ServerStatus
from replay_build_service.policy_values import Resources
from replay_build_service.records import SessionEnd
from replay_build_service.schemas import FeatureReport, ResourcesModel, SessionReport, UsageModel
from replay_build_service.web.base import Site
from replay_build_service.web.staying import ending_sentence


@dataclass(frozen=True, slots=True)
class SessionNow:
    """What there is to show of a session that runs."""

    launch: Launch
    server: Server
    limits: ResourcesModel | None
    """What it was given; none where nothing says."""
    usage: UsageModel | None
    """None where nothing tells."""
    features: Sequence[FeatureReport]
    ending: SessionEnd | None = None
    """How it ends for want of use; none while that is not near."""

    @property
    def ending_sentence(self) -> str:
        return "" if self.ending is None else ending_sentence(self.ending, datetime.now(UTC))

    @property
    def url(self) -> str:
        """Where it opens, as its link asked."""
        return self.server.url + self.launch.urlpath

    @property
    def memory_limit(self) -> int | None:
        """Bytes, as they hold by the source of the figures, or else by what the session was given."""
        if self.usage is not None:
            return self.usage.memory_limit
        return None if self.limits is None else self.limits.memory_limit

    @property
    def limit_is_of_each_process(self) -> bool:
        return self.usage is not None and self.usage.source == "process"


def session_now(
    launch: Launch | None, server: Server, report: SessionReport | None, policy: Resources | None = None
) -> SessionNow | None:
    """None where no session of that launch is on the server.

    ``report`` may be of an earlier session, and then counts for nothing. ``policy`` is what the launch's VO gives now, where
    the hub does not say what the session was given.
    """
    if launch is None or server.status is not ServerStatus.READY or server.launch_id != launch.id:
        return None
    told = report if report is not None and report.launch == launch.id else None
    limits = told.resources if told is not None else None
    if limits is None and policy is not None:
        limits = ResourcesModel.of(policy)
    return SessionNow(
        launch, server, limits, told.usage if told is not None else None, told.features if told is not None else ()
    )


async def standing_now(site: Site, person: Person) -> tuple[Launch | None, Server, SessionNow | None]:
    """Which launch holds the person's server, what the hub says of it, and of the session; asked for side by side."""
    recorded = await site.store.holder(person.name, "")
    may_run = recorded is not None and recorded.state is LaunchState.RUNNING
    (holder, server), report = await asyncio.gather(
        site.launches.standing(person), site.session_report(person.name) if may_run else _nothing()
    )
    policy = None if holder is None else site.launches.permissions.policies.of(holder.vo)
    session = session_now(holder, server, report, policy and policy.resources)
    ending = await site.launches.endings.near(holder)
    return holder, server, session and replace(session, ending=ending)


async def _nothing() -> None:
    """In place of a question that would have no answer."""


def ended_by_itself(holder: Launch | None, recent: Sequence[Launch]) -> Launch | None:
    """The person's last session, where it ended for a reason that they should know, until their next launch.

    ``recent`` are their launches, newest first.
    """
    last = recent[0] if recent else None
    if holder is not None or last is None or last.state is not LaunchState.ENDED or not last.failure:
        return None
    return last
