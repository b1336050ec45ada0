"""What people read about their spaces: ``README.md`` beside them, and the sentence on the launch's page. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from replay_spawner.features.datahub.names import Space, fsspec_name, how_often

SNIPPET = """\
import os
from pathlib import Path

from onedatarestfsspec import OnedataFileSystem

datahub = OnedataFileSystem(
    onezone_host=os.environ["REPLAY_ONEZONE"],
    preferred_providers=[os.environ["REPLAY_ONEPROVIDER"]],
    token=Path(os.environ["REPLAY_DATAHUB_TOKEN_FILE"]).read_text(),
    verify_ssl=os.environ.get("REPLAY_DATAHUB_CA_FILE") or True,
)
print(datahub.ls("/"))
"""
"""How a session without a mount reaches the spaces."""


@dataclass(frozen=True, slots=True)
class Where:
    """What the texts name."""

    provider: str
    folder: str
    """The folder's own name, such as ``datahub``."""
    is_read_only: bool
    is_mounted: bool
    """Whether spaces are folders here; otherwise they are reached by REST."""


def readme(where: Where, spaces: Sequence[Space], folders: Mapping[str, str], remarks: Sequence[str]) -> str:
    """Where there are spaces. ``folders``: their folders' names by ids; ``remarks``: whole sentences."""
    parts = ["# Your DataHub spaces", *remarks]
    if where.is_mounted:
        kept = (
            "" if where.is_read_only else " What you write there is in the DataHub, and stays when this session ends."
        )
        parts.append(f"Each folder here is one of your spaces.{kept}")
    else:
        parts.append(
            "They cannot be mounted in this kind of session. From Python you reach them so, with the packages that "
            "`pip install onedatarestfsspec` gets:"
        )
        parts.append(f"```python\n{SNIPPET}```")
        parts.append(
            "The token in that file is renewed while the session runs: read it anew in whatever takes longer than half an hour."
        )
    if where.is_read_only:
        parts.append("Here they can be read only.")
    listed = [_line(space, folders, spaces, is_mounted=where.is_mounted) for space in spaces]
    return "\n\n".join([*parts, "\n".join(listed)]) + "\n"


def readme_without(remarks: Sequence[str]) -> str:
    """Where there are none, or none are known yet."""
    return "\n\n".join(["# Your DataHub spaces", *remarks]) + "\n"


def readme_while_silent(where: Where) -> str:
    """While the mount does not answer; the sidecar adds since when."""
    return readme_without(
        [
            f"{where.provider}, which has your spaces, does not answer at the moment, so their folders are not shown. "
            "That is looked at every few seconds, and they come back by themselves.",
            "What was being read or written there may have ended with an error. Nothing else of this session is touched.",
        ]
    )


def listing(spaces: Sequence[Space]) -> str:
    """``spaces.json``: for programs."""
    names = how_often(spaces)
    found = [{"id": space.id, "name": space.name, "fsspec": fsspec_name(space, names)} for space in spaces]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def clock(moment: float) -> str:
    """Seconds since the epoch, for people."""
    return datetime.fromtimestamp(moment, UTC).strftime("%H:%M UTC")


def _line(space: Space, folders: Mapping[str, str], spaces: Sequence[Space], *, is_mounted: bool) -> str:
    if is_mounted:
        folder = folders.get(space.id)
        if folder is None:
            return f"- {_code(space.name)}: its name cannot be shown as a folder; use the DataHub’s own pages"
        return f"- {_code(folder)}" if folder == space.name else f"- {_code(folder)}: the space {_code(space.name)}"
    name = fsspec_name(space, how_often(spaces))
    if name is None:
        return f"- {_code(space.name)}: the library cannot reach a space of this name; use the DataHub’s own pages"
    return f"- {_code(f'datahub.ls({json.dumps(name, ensure_ascii=False)})')}"


def _code(name: str) -> str:
    """A name as Markdown leaves it alone, whatever it holds."""
    kept = " ".join(name.split())
    longest, run = 0, 0
    for character in kept:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * (longest + 1)
    pad = " " if kept.startswith("`") or kept.endswith("`") or not kept else ""
    return f"{fence}{pad}{kept}{pad}{fence}"
