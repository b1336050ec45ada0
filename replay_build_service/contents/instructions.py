"""What whoever fetches a content is told. No secrets: it is read from the environment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

VARIABLE = "REPLAY_CONTENT"
"""The environment variable that holds a `ContentInstructions`."""

SAYS = "REPLAY_CONTENT_SAYS"
"""Names a file that gets the sentence why it could not be fetched; there may be none."""

MODULE = "replay_build_service.contents.fetch"


@dataclass(frozen=True, slots=True)
class ContentInstructions:
    """One fetch."""

    url: str
    """As `ResolvedRef.fetch_url`."""
    version: str
    outgoing_rules: str
    """`OutgoingRules` as JSON."""
    limit: int
    """Bytes on disk."""
    folder: str
    """Where the files are to be. It comes into being whole; beside it, what begins with its name may be written and removed."""
    seconds: float
    """That the fetch may take, all in all."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))
