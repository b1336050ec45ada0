"""Which installations of Dataverse there are, and whose DOIs begin how.

The list that is shipped beside this file is taken from the community's (https://iqss.github.io/dataverse-installations/data/data.json,
which repo2docker asks for at each use). An administrator may give another, or more: a file in either form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, Field, ValidationError

__all__ = ["Installation", "read_installations", "shipped_installations"]


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
    prefixes: list[str] = Field(default_factory=list[str])


class _List(BaseModel):
    installations: list[_Entry]


def read_installations(text: str) -> tuple[Installation, ...]:
    """Those of a JSON document, ``{"installations": [{"hostname": …, "prefixes": […]}]}``, with or without what else the community's says.

    Raises `ValueError` for any other document.
    """
    try:
        listed = _List.model_validate(json.loads(text)).installations
    except (ValidationError, RecursionError) as error:
        raise ValueError("This is no list of Dataverse installations.") from error
    # Some entries of the community's list end in a slash or a path.
    return tuple(
        Installation(entry.hostname.partition("/")[0].lower(), tuple(one for one in entry.prefixes if one))
        for entry in listed
    )


@cache
def shipped_installations() -> Sequence[Installation]:
    """Those that this version of Replay knows."""
    return read_installations(
        files("replay_build_service.sources").joinpath("dataverse_installations.json").read_text("utf-8")
    )
