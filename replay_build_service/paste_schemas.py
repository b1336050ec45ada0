"""What ``POST api/resolve`` takes and answers, as pydantic models."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from replay_build_service.links import Repository
from replay_build_service.pasting import MOST_TEXT, Pasted


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
            repository=Repository.of_url(pasted.spec.url).url,
            notes=list(pasted.notes),
        )
