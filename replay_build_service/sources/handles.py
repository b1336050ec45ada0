"""Where a DOI leads, asked of doi.org's REST API (https://www.doi.org/the-identifier/resources/factsheets/doi-resolution-documentation).

The answer is a name's registered address, which its owner may change. Nothing is fetched from there by this alone.
"""

from __future__ import annotations

from urllib.parse import quote

from pydantic import BaseModel, Field

from replay_build_service.errors import RepositoryNotFound
from replay_build_service.sources.asking import Asker

__all__ = ["DOI_ORIGIN", "landing_page"]

DOI_ORIGIN = "https://doi.org"


_LONGEST_ADDRESS = 4_000
"""Characters of an address that is looked at. Whoever registers a DOI chooses it."""


class _Data(BaseModel):
    value: str | dict[str, object] = ""


class _Value(BaseModel):
    type: str = ""
    data: _Data = Field(default_factory=_Data)


class _Handle(BaseModel):
    values: list[_Value] = Field(default_factory=list[_Value])


async def landing_page(ask: Asker, doi: str, origin: str = DOI_ORIGIN) -> str:
    """The address that a DOI is registered with. Raises `RepositoryNotFound` where there is no such DOI, and as `Asker.json`."""
    missing = (
        f"There is no DOI {doi}. Check it against the place where you found it; a new one may take a day to be known."
    )
    answer = await ask.json(f"{origin}/api/handles/{quote(doi, safe='/')}?type=URL", _Handle, missing=missing)
    for value in answer.values:
        if value.type == "URL" and isinstance(value.data.value, str) and len(value.data.value) <= _LONGEST_ADDRESS:
            return value.data.value
    raise RepositoryNotFound(missing)
