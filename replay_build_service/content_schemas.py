"""What a launch's plan says of a content, as pydantic models: the files of a second repository or record in a session."""

from pydantic import BaseModel, ConfigDict

from replay_build_service.links import ResolvedRef

CONTENT_VOLUME = "/replay-content"
"""Where a pod's init container has the volume of a content; its files come into ``files`` below that."""
CONTENT_AUTHORITIES = "/replay/authorities"
"""Where it has the authorities to trust, in ``ca.crt``."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FetcherModel(_Frozen):
    """What fetches a content into a pod: an init container of it, with the session's own user and no rights."""

    image: str
    pull_policy: str
    command: list[str]
    environment: dict[str, str]
    """Says what to fetch, and where to leave it: in `CONTENT_VOLUME`."""
    ca_config_map: str | None = None
    """Has the authorities to trust, under ``ca.crt``; in the namespace of sessions."""
    size_limit: int
    """Bytes of the volume."""


class ContentModel(_Frozen):
    """A second repository or record, whose files go into a folder of their own in the session's home."""

    name: str
    """Of the folder."""
    link: str
    """As after ``content=`` in a link."""
    repository: str
    """The canonical address."""
    version: str
    """The commit, or the version of a record."""
    folder: str | None = None
    """Where its files are on this machine, for sessions on it; they are copied."""
    fetcher: FetcherModel | None = None
    """What brings them into a pod."""

    @classmethod
    def of(
        cls, content: ResolvedRef, *, folder: str | None = None, fetcher: FetcherModel | None = None
    ) -> "ContentModel":
        """Brought in one of these two ways."""
        return cls(
            name=content.repository.folder_name,
            link=content.spec.text,
            repository=content.repository.url,
            version=content.version,
            folder=folder,
            fetcher=fetcher,
        )
