"""Who asks the stand-in for the DataHub, and what their token allows: Check-in's own tokens, and temporary ones.

A temporary token holds only within its caveats, which are enforced: time, interface, read-only.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from werkzeug.exceptions import HTTPException

Caveats = Sequence[Mapping[str, Any]]

Verify = Callable[[str], str | None]
"""The ``sub`` of whom an access token of Check-in's is; none where it is worth nothing."""


class Refused(HTTPException):
    """An error as the DataHub has it, with its id."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.code = status
        self.error = error


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever asks."""

    person: str
    is_temporary: bool = False
    is_read_only: bool = False
    interface: str = ""
    """The only one that the token may be used with; empty for any."""
    valid_until: float | None = None


class Tokens:
    """The temporary tokens that were handed out, and the way to tell whose another one is."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._issued: dict[str, Bearer] = {}

    def issue(self, bearer: Bearer, caveats: Caveats, *, longest_seconds: float, size: int = 96) -> str:
        """A temporary token. Raises `Refused`."""
        if bearer.is_temporary:
            raise Refused(403, "forbidden", "A temporary token obtains no other.")
        until = interface = None
        is_read_only = False
        for caveat in caveats:
            match caveat:
                case {"type": "time", "validUntil": int() as until}:
                    pass
                case {"type": "interface", "interface": "rest" | "oneclient" | "graphsync" as interface}:
                    pass
                case {"type": "data.readonly"}:
                    is_read_only = True
                case _:
                    raise Refused(400, "badValueCaveat", f"Bad caveat: {caveat}")
        now = time.time()
        if until is None or until <= now:
            raise Refused(400, "missingRequiredValue", "A temporary token needs a time caveat that lies ahead.")
        if until > now + longest_seconds:
            raise Refused(400, "tokenTimeCaveatRequired", f"A temporary token lives for {longest_seconds} s at most.")
        token = secrets.token_urlsafe(size)
        self._issued[token] = Bearer(
            bearer.person, is_temporary=True, is_read_only=is_read_only, interface=interface or "", valid_until=until
        )
        return token

    def bearer(self, header: str | None) -> Bearer:
        """Of an ``X-Auth-Token``. Raises `Refused`."""
        if not header:
            raise Refused(401, "unauthorized", "There is no token.")
        if header.startswith("egi:"):
            person = self._verify(header.removeprefix("egi:"))
            if person is None:
                raise Refused(401, "badIdPAccessToken", "Check-in does not know this access token.")
            return Bearer(person)
        found = self._issued.get(header)
        if found is None:
            raise Refused(401, "badToken", "There is no such token.")
        if found.valid_until is not None and found.valid_until < time.time():
            raise Refused(401, "tokenCaveatUnverified", "The token has expired.")
        return found

    def rest_bearer(self, header: str | None) -> Bearer:
        """As `bearer`, at an address of a REST API."""
        found = self.bearer(header)
        if found.interface not in {"", "rest"}:
            raise Refused(401, "tokenCaveatUnverified", f"The token is for the interface {found.interface} alone.")
        return found


def caveats_in(body: Any) -> Caveats:
    """Of a request for a temporary access token. Raises `Refused`."""
    if not isinstance(body, dict):
        raise Refused(400, "malformedData", "The body is no object.")
    match cast("dict[str, Any]", body):
        case {"type": {"accessToken": {}}, "caveats": [*caveats]}:
            return caveats
        case _:
            raise Refused(400, "malformedData", "The body asks for no access token with caveats.")
