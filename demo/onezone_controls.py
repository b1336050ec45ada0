"""What can be changed at the stand-in for the DataHub while it runs: whose spaces there are, and how it fails.

Values and their lock: nothing here answers a request or listens. Each control begins as a DataHub that is well.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

HANG_SECONDS = 600
"""How long a request that hangs is kept at most."""

PROVIDER = "9f1a0c5be7d24e6fa1c2b3d4e5f60718"
"""The one Oneprovider that the stand-in is as well."""

ELSEWHERE = "0e57e11e00000000000000000000beef"
"""A provider that exists by its number only."""


class Endpoint(StrEnum):
    """An address that can fail by itself."""

    USER = "user"
    EFFECTIVE_SPACES = "effective-spaces"
    SPACE = "space"
    EFFECTIVE_PROVIDERS = "effective-providers"
    PROVIDER = "provider"
    PROVIDER_SPACES = "provider-spaces"
    TEMPORARY_TOKEN = "temporary-token"
    TOKEN_SCOPE = "token-scope"
    CONFIGURATION = "configuration"
    """The provider's: who it is."""
    DATA = "data"
    """All of the provider's that reads or writes files."""


class Failing(StrEnum):
    """How an address fails other than by a status."""

    HTML = "html"
    """200, and a page for people, as a proxy under maintenance gives it."""
    HANG = "hang"
    """Nothing is answered until the fault is lifted; then 503."""
    TRICKLE = "trickle"
    """The answer comes a byte every tenth of a second, for as long as somebody reads."""
    ENDLESS = "endless"
    """An answer that never ends, as fast as it is read."""
    DISCONNECT = "disconnect"
    REDIRECT = "redirect"
    """To another host."""
    NONSENSE = "nonsense"
    """JSON in which everything has another shape."""
    NOT_JSON = "not-json"
    """Said to be JSON, and none."""


Fault = int | Failing


@dataclass(frozen=True, slots=True)
class Space:
    """A space and the files in it; folders are what the files' paths name."""

    id: str
    name: str
    providers: tuple[str, ...] = (PROVIDER,)
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])


def examples() -> tuple[Space, ...]:
    """What everybody has: two spaces that the provider supports, and one that it does not."""
    counts = b"station,copepods\nNorth,12\nSouth,30\n"
    return (
        Space("5ace0000000000000000000000000001", "Plankton survey", files={"2025/counts.csv": counts}),
        Space("5ace0000000000000000000000000002", "Shared results", files={"README.txt": b"Results of all groups.\n"}),
        Space("5ace0000000000000000000000000003", "Kept elsewhere", providers=(ELSEWHERE,)),
    )


class Controls:
    """Spaces and faults. Safe to use from several threads."""

    def __init__(self) -> None:
        self.requests: Counter[Endpoint] = Counter()
        """How often each address was asked, whatever came of it."""
        self.most_at_once = 0
        """How many requests were answered at the same time at most."""
        self.provider_is_online = True
        """What Onezone says of it."""
        self.longest_token_seconds = 604_800
        """Of a temporary token: Onezone's default."""
        self.token_bytes = 96
        """How long a temporary token is; as text it is a third longer."""
        self._at_once = 0
        self._changed = threading.Condition()
        self._spaces: dict[str | None, tuple[Space, ...]] = {None: examples()}
        self._faults: dict[Endpoint, tuple[Fault, int | None]] = {}

    def set_spaces(self, spaces: Sequence[Space], person: str | None = None) -> None:
        """Of one person (by ``sub``), or of all who have none set for themselves."""
        with self._changed:
            self._spaces[person] = tuple(spaces)

    def spaces_of(self, person: str) -> tuple[Space, ...]:
        return self._spaces.get(person, self._spaces[None])

    def space(self, person: str, space_id: str) -> Space | None:
        return next((one for one in self.spaces_of(person) if one.id == space_id), None)

    def fail(self, fault: Fault, *endpoints: Endpoint, times: int | None = None) -> None:
        """At these addresses, or at all, from the next request on; ``times``: so many requests, then no more."""
        with self._changed:
            for endpoint in endpoints or tuple(Endpoint):
                self._faults[endpoint] = (fault, times)
            self._changed.notify_all()

    def recover(self) -> None:
        """Nothing fails any more; what hangs is let go."""
        with self._changed:
            self._faults.clear()
            self._changed.notify_all()

    @contextmanager
    def request(self, endpoint: Endpoint) -> Generator[Fault | None]:
        """One more request while it is answered; how it is to fail."""
        with self._changed:
            self.requests[endpoint] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault, times = self._faults.get(endpoint, (None, None))
            if times is not None and fault is not None:
                if times > 1:
                    self._faults[endpoint] = (fault, times - 1)
                else:
                    del self._faults[endpoint]
        try:
            yield fault
        finally:
            with self._changed:
                self._at_once -= 1

    def wait_out(self, endpoint: Endpoint) -> None:
        """Until the address does not hang any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._faults.get(endpoint, (None, None))[0] is not Failing.HANG, timeout=HANG_SECONDS
            )
