"""What launches ask of whoever brings the files of a second repository or record into sessions."""

from typing import Protocol

from replay_build_service.content_schemas import ContentModel
from replay_build_service.domain import ResolvedRef


class Contents(Protocol):
    """Brings contents into sessions; see `replay_build_service.contents`."""

    async def ready(self, content: ResolvedRef) -> None:
        """See to it that a session can be given this now, as far as it is known before the session starts.

        Raises `BadLink` where it is no content for this site (too large), and `SourceFault` where it cannot be had now.
        """
        ...

    def given(self, content: ResolvedRef) -> ContentModel:
        """How it comes into a session that starts now, for its plan. Only after `ready`."""
        ...
