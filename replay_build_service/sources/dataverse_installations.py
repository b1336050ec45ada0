"""Which installations of Dataverse there are, and whose DOIs begin how.

The list that is shipped beside this file is taken from the community's (https://iqss.github.io/dataverse-installations/data/data.json,
which repo2docker asks for at each use). An administrator may give more, or newer ones: a file in either form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from replay_build_service.errors import BadLink, OriginRefused
from replay_build_service.outgoing import Origin

__all__ = ["Installation", "known_installations", "read_installations", "shipped_installations"]


@dataclass(frozen=True, slots=True)
class Installation:
    """One installation."""

    host: str
    """In lower case; ``host:port`` for another port than HTTPS's."""
    prefixes: tuple[str, ...] = ()
    """How DOIs begin that are of this installation and of no other. None where doi.org has to be asked."""
    scheme: str = "https"
    """``http`` for an origin that an administrator made exempt from the rule."""

    @property
    def origin(self) -> str:
        """Where its API is."""
        return f"{self.scheme}://{self.host}"


class _Entry(BaseModel):
    hostname: str = Field(min_length=1, max_length=253)
    prefixes: list[Annotated[str, Field(pattern=r"^10\.[0-9]{4,9}/")]] = Field(default_factory=list[str])


class _List(BaseModel):
    installations: list[_Entry]


def read_installations(text: str) -> tuple[Installation, ...]:
    """Those of a JSON document, ``{"installations": [{"hostname": …, "prefixes": […]}]}``, with or without what else the community's says.

    Raises `ValueError` for any other document, and for an entry that names no host.
    """
    try:
        listed = _List.model_validate(json.loads(text)).installations
    except (ValidationError, RecursionError) as error:
        raise ValueError("This is no list of Dataverse installations.") from error
    return tuple(Installation(_host_of(entry.hostname), tuple(entry.prefixes)) for entry in listed)


def _host_of(text: str) -> str:
    # Some entries of the community's list end in a slash or a path.
    host = text.strip().lower().removeprefix("https://").partition("/")[0].removesuffix(":443")
    try:
        is_host = Origin.of_url(f"https://{host}").netloc == host
    except (BadLink, OriginRefused):
        is_host = False
    if not is_host:
        raise ValueError(f"“{text}” is no host of an installation.")
    return host


@cache
def shipped_installations() -> Sequence[Installation]:
    """Those that this version of Replay knows."""
    return read_installations(
        files("replay_build_service.sources").joinpath("dataverse_installations.json").read_text("utf-8")
    )


def known_installations(more: Sequence[Installation] = ()) -> tuple[Installation, ...]:
    """Those that are shipped, and ``more``, which are the newer ones: of a host in both, what these say; of a prefix of two, theirs.

    The community's list names no prefixes, so where ``more`` has none of a host, the shipped ones stay.
    """
    shipped = {one.host: one for one in shipped_installations()}
    newer = {one.host: one for one in more}
    told = (
        one if one.prefixes or one.host not in shipped else replace(one, prefixes=shipped[one.host].prefixes)
        for one in newer.values()
    )
    return (*told, *(one for host, one in shipped.items() if host not in newer))
