"""The pages of a VO's managers: who may see them, and what they show. What is decided on them is in `manager_forms`.

Everything below ``vo/<VO>`` is a manager's of that VO, or an administrator's; `ManagerPage.prepare` sees to it before
anything of the page runs.
"""

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from tornado import web

from replay_build_service.domain import BuildId, LaunchId, ResolvedRef
from replay_build_service.links import Repository
from replay_build_service.managing import PAGE as ROWS
from replay_build_service.managing import Manager
from replay_build_service.managing.sessions import PAGE as SESSIONS
from replay_build_service.managing.usage import Month
from replay_build_service.pasting import urlpath_of
from replay_build_service.policies import banner_of, terms_of
from replay_build_service.web.base import PageHandler
from replay_build_service.web.share import share_links

_SGR = re.compile(r"\x1b\[[0-9;]*m")
"""Colours in a build's log; all other sequences are gone before it is stored."""

DONE = {
    "stopped": "The session was stopped.",
    "ruled": "The rule holds from now on.",
    "rule-removed": "The rule is gone.",
    "blocked": "This person can launch nothing for the VO from now on.",
    "blocked-and-stopped": "This person can launch nothing for the VO from now on, and what they had running for it was stopped.",
    "blocked-unseen": "Whoever has this name can launch nothing for the VO from now on. Nobody of this name has launched for it so far: "
    "see that it is spelled as among the VO’s launches.",
    "lifted": "The block is lifted.",
    "banner": "The banner is changed.",
    "terms": "The terms are changed.",
    "prepared": "The event is prepared.",
    "asked": "The environment of the repository’s present commit was asked for.",
    "called-off": "The event is called off.",
}
"""What a form says of itself on the page that it leads to; a closed set, since it travels in an address."""


class AdministeredPage(PageHandler):
    """Knows whether an administrator asks."""

    async def prepare(self) -> None:
        await super().prepare()
        if self._finished:  # to log in
            return
        limit = self.site.look_limit if self.request.method in {"GET", "HEAD"} else self.site.manage_limit
        limit.take(self.person.name)

    def older_than(self, shown: str) -> str | None:
        """The row that the page before ended with, as ``?before=`` has it; what does not look like one is none."""
        text = self.get_query_argument("before", "")
        return text if re.fullmatch(shown, text) else None


class ManagerPage(AdministeredPage):
    """A page of one VO, for its managers."""

    manager: Manager
    here = ""
    """Which of the VO's pages this is, for its list of them."""

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished:
            self.manager = self.site.managing.admit(self.person, self.path_args[0], is_admin=self.is_admin)

    def vo_url(self, path: str = "") -> str:
        """Path of one of this VO's pages."""
        return f"{self.site.base_url}vo/{quote(self.manager.vo, safe='')}{path and f'/{path}'}"

    def render_vo(self, template: str, **values: Any) -> None:
        """A page with what every page of a VO has."""
        self.render_page(
            template,
            vo=self.manager.vo,
            vo_url=self.vo_url(),
            here=self.here,
            done=DONE.get(self.get_query_argument("done", ""), ""),
            **values,
        )

    def done(self, path: str, what: str) -> None:
        """Lead to a page that says what was done."""
        self.redirect(f"{self.vo_url(path)}?done={what}", status=303)


class SessionsPage(ManagerPage):
    """``vo/VO``: what is on its way or runs."""

    here = "sessions"

    async def get(self, vo: str) -> None:
        before = self.older_than(r"[0-9a-f]{32}")
        sessions = self.site.managing.sessions
        active = await sessions.active(self.manager, LaunchId(before) if before else None)
        self.render_vo(
            "managers_sessions.html",
            active=active,
            running=await sessions.count(self.manager),
            is_first=before is None,
            older=active[-1].session.launch.id if len(active) == SESSIONS else None,
        )


class LaunchesPage(ManagerPage):
    """``vo/VO/launches``: people and when."""

    here = "launches"

    async def get(self, vo: str) -> None:
        before = self.older_than(r"[0-9a-f]{32}")
        user = self.get_query_argument("person", "")[:255]
        found = await self.site.managing.launches(self.manager, LaunchId(before) if before else None, user)
        self.render_vo(
            "managers_launches.html",
            launches=found,
            user=user,
            is_first=before is None,
            older=found[-1].launch.id if len(found) == ROWS else None,
        )


class BuildsPage(ManagerPage):
    """``vo/VO/builds``: builds and failures."""

    here = "builds"

    async def get(self, vo: str) -> None:
        before = self.older_than(r"[0-9a-f]{16}")
        found = await self.site.managing.builds(self.manager, BuildId(before) if before else None)
        self.render_vo(
            "managers_builds.html",
            builds=found,
            is_first=before is None,
            older=found[-1].build.id if len(found) == ROWS else None,
        )


class BuildPage(ManagerPage):
    """``vo/VO/builds/ID``: one build, with the end of its log."""

    here = "builds"

    async def get(self, vo: str, build_id: str) -> None:
        found = await self.site.managing.build(self.manager, BuildId(build_id))
        events = await self.site.managing.log_of(found)
        lines = [_SGR.sub("", event.text) for event in events]
        skipped = events[0].sequence - 1 if events else 0
        self.render_vo("managers_build.html", found=found, lines=lines, skipped=skipped)


class RulesPage(ManagerPage):
    """``vo/VO/rules``: what managers have decided, and the forms to decide."""

    here = "rules"

    async def get(self, vo: str) -> None:
        managing = self.site.managing
        policy, rulings = managing.explaining.policy(self.manager), await managing.rulings(self.manager)
        self.render_vo(
            "managers_rules.html",
            policy=policy,
            rules=await managing.rules(self.manager),
            blocks=await managing.blocks(self.manager),
            rulings=rulings,
            banner=banner_of(policy, rulings),
            terms=terms_of(policy, rulings),
            blocked=self.get_query_argument("block", "")[:255],
        )


class ExplainPage(ManagerPage):
    """``vo/VO/explain``: what would happen if a member opened a link. Changes nothing, so its form is a GET."""

    here = "explain"

    async def get(self, vo: str) -> None:
        user, link = self.get_query_argument("person", "")[:255], self.get_query_argument("link", "")[:2200]
        answer = None
        if user or link:
            answer = await self.site.managing.explaining.explain(self.manager, user, link_parts(link)[0])
        self.render_vo("managers_explain.html", user=user, link=link, answer=answer)


class EventsPage(ManagerPage):
    """``vo/VO/events``: what was prepared."""

    here = "events"

    async def get(self, vo: str) -> None:
        now = datetime.now(UTC)
        self.render_vo("managers_events.html", events=await self.site.managing.events.all(self.manager), now=now)


class EventPage(ManagerPage):
    """``vo/VO/events/ID``: one event, how far its environment is, and the links to share."""

    here = "events"

    async def get(self, vo: str, event_id: str) -> None:
        state = await self.site.managing.events.get(self.manager, event_id)
        event = state.standing
        links = None
        if event.version is not None:
            resolved = ResolvedRef(Repository.of_url(state.spec.url), state.spec, state.spec.url, event.version)
            links = share_links(self.origin, resolved, event.urlpath)
        self.render_vo("managers_event.html", state=state, event=event.event, links=links, now=datetime.now(UTC))


class AuditPage(ManagerPage):
    """``vo/VO/audit``: who of this VO's managers decided what."""

    here = "audit"

    async def get(self, vo: str) -> None:
        before = self.older_than(r"[0-9]{1,15}")
        found = await self.site.managing.audit(self.manager, int(before) if before else None)
        older = found[-1].id if len(found) == ROWS else None
        self.render_vo("managers_audit.html", entries=found, is_first=before is None, older=older)


class WholeAuditPage(AdministeredPage):
    """``audit``: the log of all VOs, for administrators of the hub alone."""

    async def get(self) -> None:
        if not self.is_admin:
            raise web.HTTPError(403, "This page is for the administrators of this hub.")
        before = self.older_than(r"[0-9]{1,15}")
        found = await self.site.managing.whole_audit(int(before) if before else None)
        self.render_page(
            "managers_whole_audit.html",
            entries=found,
            is_first=before is None,
            older=found[-1].id if len(found) == ROWS else None,
            managed=self.site.managing.managed_by(self.person, is_admin=True),
        )


def link_parts(text: str) -> tuple[str, str]:
    """Repository and path to open of a link, written whole, from ``/v2/`` on, or as ``<provider>/<spec>`` alone."""
    address, _, query = text.strip().partition("?")
    spec = address.split("/v2/", 1)[-1] if "/v2/" in address else address.removeprefix("v2/")
    return spec, urlpath_of(query.partition("#")[0])


def months_asked(handler: PageHandler) -> tuple[Month, Month]:
    """``?from=`` and ``?to=``; without them the present month and the two before it. Raises `BadLink`."""
    now = Month.of(datetime.now(UTC))
    first = handler.get_query_argument("from", "")
    last = handler.get_query_argument("to", "")
    end = Month.parse(last) if last else now
    return (Month.parse(first) if first else min(now, end).previous.previous), end
