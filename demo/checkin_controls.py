"""What can be changed at the stand-in for Check-in while it runs: what it says of people, how it signs, and how it fails.

Values and their lock: nothing here speaks the protocol, answers a request or listens. Every control begins as Check-in
behaves; `Controls.reset` goes back to that.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from demo.people import Person

HANG_SECONDS = 600
"""How long a request that hangs is kept at most."""


class Endpoint(StrEnum):
    """An address of the provider that can fail by itself."""

    CONFIGURATION = "configuration"
    AUTHORIZE = "authorize"
    TOKEN = "token"
    USERINFO = "userinfo"
    INTROSPECT = "introspect"
    CERTS = "certs"
    REVOKE = "revoke"
    LOGOUT = "logout"


class Failing(StrEnum):
    """How an address fails other than by a status."""

    HANG = "hang"
    """Nothing is answered until the fault is lifted; then 503."""
    DISCONNECT = "disconnect"
    """The connection is cut without an answer, before anything is done."""
    LOSE_ANSWER = "lose-answer"
    """What was asked is done, and the connection is cut instead of the answer."""
    PAGE = "page"
    """A page with status 200, as of a portal in between."""
    REFUSE = "refuse"
    """Nothing listens. Only for an address with a port of its own, or for all at once."""


Fault = int | Failing
"""An HTTP status, or how else an address fails."""


class Standing(StrEnum):
    """What has become of a person's account."""

    GOOD = "good"
    SUSPENDED = "suspended"
    """In their VOs: entitlements are not released any more, as for an expired or a pending member."""
    INACTIVE = "inactive"
    """At the provider: ``{"active": false}``, 401 from userinfo, ``invalid_grant`` for refresh tokens."""


class ReleasedClaims(StrEnum):
    """Under which names a person's entitlements are released."""

    AS_EACH_HAS_THEM = "as-each-has-them"
    OLD = "old"
    """All in ``eduperson_entitlement``."""
    NEW = "new"
    """All in ``entitlements``."""
    BOTH = "both"
    NONE = "none"


class IdTokenFlaw(StrEnum):
    """What a provider, or somebody in its place, could do to an ID token."""

    MISSING = "missing"
    UNSIGNED = "alg-none"
    FOREIGN_AUDIENCE = "foreign-audience"
    MORE_AUDIENCES = "more-audiences"
    """Ours among others, and the one it was issued to (``azp``) another."""
    FOREIGN_ISSUER = "foreign-issuer"
    EXPIRED = "expired"
    NOT_YET = "not-yet"
    """Issued an hour from now."""
    NO_NONCE = "no-nonce"
    REPLAYED_NONCE = "replayed-nonce"
    """The nonce of the login before."""
    BAD_SIGNATURE = "bad-signature"
    UNKNOWN_KEY = "unknown-key"
    """Signed with a key that is not published."""
    HMAC_OF_PUBLIC_KEY = "hmac-of-public-key"
    """The published key used as the secret of HS256."""
    FOREIGN_SUBJECT = "foreign-subject"


@dataclass(frozen=True, slots=True)
class Entitlements:
    """A person's, under both names."""

    eduperson_entitlement: tuple[str, ...] = ()
    entitlements: tuple[str, ...] = ()


@dataclass(slots=True)
class Settings:
    """How the stand-in behaves to everybody. May be set at any time; the next request sees it."""

    access_token_seconds: int = 3600
    rotates_refresh_tokens: bool = False
    """A refresh gives a new refresh token and uses the old one up; an old one that comes back ends all of its login."""
    exchanges_tokens: bool = False
    """RFC 8693; the configuration says so where it is on."""
    token_answer: dict[str, Any] | None = None
    """Laid over what the token address answers to a request that it grants; a field that is None is left out."""
    revoking_ends_logins: bool = False
    """An access token that is revoked ends all of its login, and not itself alone."""
    lists_revocation: bool = True
    """Whether the configuration names the address that revokes (RFC 7009)."""
    clock_skew_seconds: int = 0
    """How far the times that are told (``iat``, ``exp``, ``auth_time``) are ahead of the real ones; may be negative."""
    released_claims: ReleasedClaims = ReleasedClaims.AS_EACH_HAS_THEM
    id_token_flaw: IdTokenFlaw | None = None
    userinfo_subject: str | None = None
    """The ``sub`` that userinfo gives, whoever's token was sent."""


class Controls:
    """The settings, the standing of each person, and faults. Safe to use from several threads."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.requests: Counter[Endpoint] = Counter()
        """How often each address was asked since the start or `reset`, whatever came of it."""
        self._changed = threading.Condition()
        self._standings: dict[str, Standing] = {}
        self._entitlements: dict[str, Entitlements] = {}
        self._faults: dict[Endpoint, tuple[Fault, int | None]] = {}

    def reset(self) -> None:
        """As at the start: everybody as `demo.people` has them, nothing fails."""
        with self._changed:
            for field in fields(Settings):
                setattr(self.settings, field.name, field.default)
            for kept in (self.requests, self._standings, self._entitlements, self._faults):
                kept.clear()
            self._changed.notify_all()

    # People

    def set_entitlements(self, person: Person, entitlements: Entitlements) -> None:
        """In place of what `demo.people` gives them."""
        with self._changed:
            self._entitlements[person.voperson_id] = entitlements

    def set_standing(self, person: Person, standing: Standing) -> None:
        with self._changed:
            self._standings[person.voperson_id] = standing

    def standing_of(self, person: Person) -> Standing:
        return self._standings.get(person.voperson_id, Standing.GOOD)

    def entitlements_of(self, person: Person) -> Entitlements:
        """What the person has, whether it is released or not."""
        own = Entitlements(person.eduperson_entitlement, person.entitlements)
        return self._entitlements.get(person.voperson_id, own)

    def released(self, person: Person) -> Entitlements:
        """What userinfo and introspection say now."""
        has = self.entitlements_of(person)
        if self.standing_of(person) is not Standing.GOOD:
            return Entitlements()
        union = tuple(dict.fromkeys(has.entitlements + has.eduperson_entitlement))
        match self.settings.released_claims:
            case ReleasedClaims.AS_EACH_HAS_THEM:
                return has
            case ReleasedClaims.OLD:
                return Entitlements(eduperson_entitlement=union)
            case ReleasedClaims.NEW:
                return Entitlements(entitlements=union)
            case ReleasedClaims.BOTH:
                return Entitlements(union, union)
            case ReleasedClaims.NONE:
                return Entitlements()

    # Faults

    def set_fault(self, endpoint: Endpoint, fault: Fault | None, *, times: int | None = None) -> None:
        """From the next request on, for so many requests or until it is lifted with None."""
        with self._changed:
            if fault is None:
                self._faults.pop(endpoint, None)
            else:
                self._faults[endpoint] = (fault, times)
            self._changed.notify_all()

    def fault_of(self, endpoint: Endpoint) -> Fault | None:
        return self._faults.get(endpoint, (None, None))[0]

    def count_request(self, endpoint: Endpoint) -> Fault | None:
        """One more request; how it is to fail."""
        with self._changed:
            self.requests[endpoint] += 1
            self._changed.notify_all()
            fault, times = self._faults.get(endpoint, (None, None))
            if fault is not None and times is not None and fault is not Failing.HANG:
                self._use_up(endpoint, fault, times)
        return fault

    def _use_up(self, endpoint: Endpoint, fault: Fault, times: int) -> None:
        if times > 1:
            self._faults[endpoint] = (fault, times - 1)
        else:
            del self._faults[endpoint]

    def wait_for_requests(self, endpoint: Endpoint, count: int, *, seconds: float = 30) -> bool:
        """Until the address was asked so often; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self.requests[endpoint] >= count, timeout=seconds)

    def wait_out(self, endpoint: Endpoint) -> None:
        """Until the address does not hang any more."""
        with self._changed:
            self._changed.wait_for(lambda: self.fault_of(endpoint) is not Failing.HANG, timeout=HANG_SECONDS)
