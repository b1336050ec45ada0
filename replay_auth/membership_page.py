"""What administrators of a hub see of memberships that cannot be looked at: a page, and the same as JSON.

Nothing is decided here, and nothing can be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from replay_auth.handlers import OwnPage
from replay_auth.notes import Cause, Doubt
from replay_auth.refreshing import Standing, Verdict

_MOST_SHOWN = 500
_CAUSES: Mapping[Cause, str] = {
    Cause.FAULT: "There is no answer about this membership.",
    Cause.LOGIN_NEEDED: "The person has to log in again.",
}


class WatchedMemberships(Protocol):
    """What the page asks of the hub's authenticator."""

    membership_seconds: float
    membership_grace: float

    def doubts(self) -> Mapping[str, Verdict]: ...

    @property
    def watch_is_failing(self) -> bool: ...

    @property
    def people_watched(self) -> int: ...

    @property
    def seconds_late(self) -> float: ...


class MembershipHandler(OwnPage, BaseHandler):
    """``GET /hub/replay/membership``, for whoever may see all about the hub's users."""

    _accept_token_auth = True

    def get(self) -> None:
        """A page for browsers; JSON for whoever brings a token or asks for it."""
        if "text/html" in self.request.headers.get("Accept", "") and not self.get_auth_token():
            self._get_page()
        else:
            self._get_json()

    @web.authenticated
    @needs_scope("admin:users")
    def _get_page(self) -> None:
        self.tell(200, "membership.html", **self._told())

    @needs_scope("admin:users")
    def _get_json(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(self._told())

    def _told(self) -> dict[str, Any]:
        memberships: WatchedMemberships = cast("Any", self).authenticator
        found = [(name, verdict.doubt, verdict) for name, verdict in memberships.doubts().items() if verdict.doubt]
        doubts = sorted(found, key=lambda one: one[1].since)
        return {
            "bound_seconds": memberships.membership_seconds,
            "grace_seconds": memberships.membership_grace,
            "people_watched": memberships.people_watched,
            "watch_is_failing": memberships.watch_is_failing,
            "seconds_late": round(memberships.seconds_late, 1),
            "doubts": len(doubts),
            "people": [_person(*one, memberships.membership_grace) for one in doubts[:_MOST_SHOWN]],
        }


def _person(name: str, doubt: Doubt, verdict: Verdict, grace: float) -> dict[str, Any]:
    return {
        "name": name,
        "cause": doubt.cause.value,
        "means": _CAUSES[doubt.cause],
        "reason": verdict.reason,
        "since": _time(doubt.since),
        "until": _time(doubt.since + grace),
        "is_over": verdict.standing is Standing.DOUBTED_TOO_LONG,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
