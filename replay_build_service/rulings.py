"""What the managers of a VO have decided while the service runs, over what its policy says. Values, and who is asked.

Standard library only. A policy is the admin's, in a file, and changes at a restart; rulings are a VO's managers', in the
database, and count from the moment that they are stored. A ruling narrows what the policy allows and never widens it,
but for prepared events, which are exempt from limits of rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Block:
    """One person who may not launch for this VO."""

    user: str
    reason: str
    """Told to the person."""
    until: datetime | None = None
    """Exclusive, in UTC; ``None`` until it is lifted."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of use, which each member agrees to once per version."""

    version: str
    text: str
    """Plain text; empty lines part paragraphs."""


@dataclass(frozen=True, slots=True)
class PreparedEvent:
    """A course or a workshop whose people will all open one link at about the same time."""

    id: str
    title: str
    repo: str
    """``<provider>/<spec>``, as in a link."""
    starts_at: datetime
    ends_at: datetime
    people: int
    """How many are expected."""


@dataclass(frozen=True, slots=True)
class VORulings:
    """All that holds for one VO now. Empty where its managers have decided nothing."""

    denied: tuple[str, ...] = ()
    """Patterns of repositories, as in a policy; denied whatever the policy allows, but for those in ``allowed``."""
    allowed: tuple[str, ...] = ()
    """Patterns that are exempt from ``denied``, and from nothing else: what the policy denies, or does not allow, stays so."""
    blocks: tuple[Block, ...] = ()
    banner: str | None = None
    """In place of the policy's; an empty text shows none."""
    terms: Terms | None = None
    """In place of the policy's."""
    events: tuple[PreparedEvent, ...] = ()
    """Those that are not over."""


class Rulings(Protocol):
    """Where the rulings of a VO are asked for, at each decision; see `replay_build_service.db.Store`."""

    async def rulings_of(self, vo: str) -> VORulings: ...
