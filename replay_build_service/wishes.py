"""What a person asks for, what they are shown before they agree, and what that became. Frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from replay_build_service.domain import Launch, ResolvedRef, RunnableImage, Server
from replay_build_service.errors import RepositoryNotFound, SourceFault
from replay_build_service.policy_values import Offer, VOPolicy


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for, as it came in; nothing of it is trusted yet."""

    repo: str
    """``<provider>/<spec>``, as in a link."""
    vo: str | None = None
    urlpath: str = ""
    version: str | None = None
    """The commit that the person saw and agreed to; ``None`` (over the API) for whatever the ref means now."""
    server_name: str = ""
    """Empty: named servers are not supported yet."""
    features: tuple[str, ...] = ()
    """Names of what the session is to get beside the image."""
    terms: str | None = None
    """The version of the VO's terms of use that the person agrees to with this."""
    content: str | None = None
    """``<provider>/<spec>`` of a second repository or record, whose files the session gets; none for the image's own alone."""
    content_version: str | None = None
    """As ``version``, of the content."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """That a link's source did not answer, so that it is taken as it was understood last."""

    error: RepositoryNotFound | SourceFault
    """Gone, by the source's own word, or only not to be had now."""
    last_at: datetime

    @property
    def is_gone(self) -> bool:
        return isinstance(self.error, RepositoryNotFound)


@dataclass(frozen=True, slots=True)
class Consent:
    """All that a person is shown before they agree."""

    resolved: ResolvedRef
    offers: Sequence[Offer]
    """For each VO of theirs, by its name."""
    is_built: bool
    usual_seconds: float | None
    server: Server
    holder: Launch | None
    """The launch that holds the person's server now."""
    same_image: bool
    """The server that runs, or the launch on its way, is of this very image, with the same content."""
    chosen: str = ""
    """The VO that the person launched for last, where they may still."""
    unanswered: Unanswered | None = None
    """Where the source did not say what the link means now."""
    content: ResolvedRef | None = None
    """What else the session would get, in a folder of its own."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A launch that was just used up, and with what it runs."""

    launch: Launch
    image: RunnableImage
    policy: VOPolicy
