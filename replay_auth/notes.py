"""What is noted beside a login in a person's auth state: how fresh it is, what is in doubt, and who is renewing it.

Pure values and their way into JSON and out of it. All times are seconds since the epoch by the hub's clock: of the
provider's only durations are believed, so that its clock may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite
from typing import Any, Self, cast

KEY = "replay_membership"
"""Where the notes are in an auth state."""

RENEWAL_SECONDS = 60.0
"""So long before an access token expires it is renewed; of one that lives shorter than five minutes, in its last fifth."""


class Cause(StrEnum):
    """Why a membership could not be looked at."""

    FAULT = "fault"
    """The provider did not answer, or not as the protocol says."""
    LOGIN_NEEDED = "login-needed"
    """It takes no token that the hub has: the person has to log in again."""


class Logout(StrEnum):
    """How far a logout of the hub's has come, after which the person has not logged in again."""

    PENDING = "pending"
    """The tokens stay for as long as something is looked at by them that was left running, and go back then."""
    DONE = "done"
    """The hub has given them back, or was about to."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A membership that was proved once and cannot be looked at now."""

    since: float
    cause: Cause


@dataclass(frozen=True, slots=True)
class Claim:
    """One process is using the refresh token: of a provider that rotates them, two would end the login."""

    by: str
    until: float


@dataclass(frozen=True, slots=True)
class Notes:
    """Of one login. The defaults are those of a login that nobody took notes of: nothing is known, so it is asked."""

    answered_at: float = 0.0
    """When the provider was last asked about this person's memberships and answered."""
    renew_at: float | None = None
    expires_at: float | None = None
    """Of the access token; both None where the provider does not say."""
    doubt: Doubt | None = None
    claim: Claim | None = None
    may_have_ended: bool = False
    """Whether the login's tokens may be worth nothing through the hub's own doing: a logout, or a rotated token whose
    answer was lost. That they are inactive then says nothing about the person."""
    is_lost: bool = False
    """Whether the provider said that the person is in no permitted VO, or knows them no more."""
    logout: Logout | None = None

    @classmethod
    def of_login(cls, tokens: Mapping[str, object], now: float) -> Self:
        """Of tokens that came just now, with userinfo that came with them."""
        return cls(answered_at=now).renewed(tokens, now)

    @classmethod
    def of(cls, auth_state: Mapping[str, object] | None) -> Self:
        """What an auth state holds of them. Anything that is no note counts as not there."""
        found = (auth_state or {}).get(KEY)
        noted = cast("dict[str, object]", found) if isinstance(found, dict) else {}
        return cls(
            answered_at=number(noted.get("answered_at")) or 0.0,
            renew_at=number(noted.get("renew_at")),
            expires_at=number(noted.get("expires_at")),
            doubt=_doubt(noted.get("doubt")),
            claim=_claim(noted.get("claim")),
            may_have_ended=noted.get("may_have_ended") is True,
            is_lost=noted.get("is_lost") is True,
            logout=_logout(noted.get("logout")),
        )

    def into(self, auth_state: Mapping[str, Any]) -> dict[str, Any]:
        """The auth state with these notes instead of its own."""
        noted: dict[str, object] = {
            "answered_at": self.answered_at,
            "renew_at": self.renew_at,
            "expires_at": self.expires_at,
            "doubt": self.doubt and {"since": self.doubt.since, "cause": self.doubt.cause.value},
            "claim": self.claim and {"by": self.claim.by, "until": self.claim.until},
            "may_have_ended": self.may_have_ended,
            "is_lost": self.is_lost,
            "logout": self.logout and self.logout.value,
        }
        told = {name: value for name, value in noted.items() if value is not None and value is not False}
        return {**auth_state, KEY: told}

    def renewed(self, tokens: Mapping[str, object], now: float) -> Self:
        """With a new access token, and nobody renewing it any more."""
        lifetime = number(tokens.get("expires_in"))
        if lifetime is None or lifetime <= 0:
            return replace(self, renew_at=None, expires_at=None, claim=None, may_have_ended=False)
        margin = min(RENEWAL_SECONDS, lifetime / 5)
        return replace(
            self, renew_at=now + lifetime - margin, expires_at=now + lifetime, claim=None, may_have_ended=False
        )

    def answered(self, now: float, *, is_member: bool) -> Self:
        """The provider was asked at that time, and answered."""
        return replace(self, answered_at=now, doubt=None, is_lost=not is_member)

    def doubted(self, cause: Cause, now: float) -> Self:
        """It could not be asked. A doubt begins once, whatever its cause becomes."""
        return replace(self, doubt=Doubt(self.doubt.since if self.doubt else now, cause))

    def logged_out(self, *, is_all_gone: bool, ends_at_provider: bool) -> Self:
        """The person has logged out, here or at the provider as well, and has left something or nothing at the hub."""
        return replace(
            self,
            logout=Logout.DONE if is_all_gone else Logout.PENDING,
            may_have_ended=self.may_have_ended or is_all_gone or ends_at_provider,
        )

    def is_due(self, now: float) -> bool:
        """Whether the access token is to be renewed before it is used."""
        return self.renew_at is not None and now >= self.renew_at

    def has_expired(self, now: float) -> bool:
        """Whether the access token is certainly worth nothing."""
        return self.expires_at is not None and now >= self.expires_at

    def should_be_valid(self, now: float) -> bool:
        """Whether the access token would work if nobody had taken it back."""
        return self.renew_at is not None and now < self.renew_at and not self.may_have_ended


def number(value: object) -> float | None:
    """A finite number, or the text of one; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:
        return None


def _doubt(value: object) -> Doubt | None:
    held = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    since, cause = number(held.get("since")), str(held.get("cause"))
    return Doubt(since, Cause(cause)) if since is not None and cause in {*map(str, Cause)} else None


def _logout(value: object) -> Logout | None:
    return Logout(value) if isinstance(value, str) and value in {*map(str, Logout)} else None


def _claim(value: object) -> Claim | None:
    held = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    until, by = number(held.get("until")), held.get("by")
    return Claim(by, until) if until is not None and isinstance(by, str) else None
