"""What is said of links over the wire, as pydantic models."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from replay_build_service.errors import BadLink
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.pasting import MOST_TEXT, Pasted, content_of


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResolveRequest(_Frozen):
    """``POST …/api/resolve``."""

    text: Annotated[str, StringConstraints(max_length=MOST_TEXT)]
    """Whatever somebody pasted."""


class ResolvedLink(_Frozen):
    """The link that it means."""

    link: str
    """Path of the link: ``/v2/…``."""
    spec: str
    """What follows ``/v2/``, which ``POST api/launches`` takes as “repo”."""
    urlpath: str
    """What of the session it opens; empty for the session's own default."""
    content: str
    """The second repository or record that it brings into the session, as “content” of ``POST api/launches``; empty for none."""
    repository: str
    """The address that is meant."""
    notes: list[str]
    """Sentences: what was not taken over, and what was understood that one may not expect."""

    @classmethod
    def of(cls, pasted: Pasted) -> "ResolvedLink":
        return cls(
            link=pasted.link,
            spec=pasted.spec.text,
            urlpath=pasted.urlpath,
            content=pasted.content,
            repository=Repository.of_url(pasted.spec.url).url,
            notes=list(pasted.notes),
        )


class LinkPreview(_Frozen):
    """What a link means, from its text alone: no request is made for it."""

    repository: str
    """The address that the link names."""
    ref: str
    spec: str
    """The canonical spelling after ``/v2/``."""
    content: str = ""
    """The address of the second repository or record, where the link names one."""
    content_ref: str = ""
    problem: str | None = None
    """Why it cannot be understood; then the other fields are empty."""

    @classmethod
    def of(cls, text: str, query: str = "") -> "LinkPreview":
        """``text`` is what follows ``/v2/``, percent-encoded as it came; ``query`` what follows a question mark after it."""
        try:
            spec, named = RepoSpec.parse(text), content_of(query)
            content = RepoSpec.parse(named) if named else None
        except BadLink as error:
            return cls(repository="", ref="", spec="", problem=error.sentence)
        of_content = {"content": content.url, "content_ref": content.ref} if content else {}
        return cls(repository=spec.url, ref=spec.ref, spec=spec.text, **of_content)
