"""The table of archives that `test_records` holds to one contract, and of records that are there for everybody, for the live runs."""

from __future__ import annotations

import asyncio
import io
import stat
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from replay_build_service.domain import ResolvedRef
from replay_build_service.links import RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import RecordSource, split_fetch_url
from replay_build_service.sources.fetching import FetchLimits, fetch_record
from tests.archives.ckan import CkanServer
from tests.archives.dataverse import DataverseServer
from tests.archives.figshare import FigshareServer
from tests.archives.hydroshare import HydroShareServer
from tests.archives.osf import OsfServer
from tests.archives.server import ArchiveServer
from tests.archives.zenodo import ZenodoServer

ARCHIVES: tuple[type[ArchiveServer], ...] = (
    ZenodoServer,
    FigshareServer,
    DataverseServer,
    HydroShareServer,
    OsfServer,
    CkanServer,
)
"""One row for each archive's stand-in."""

OLD = {"requirements.txt": b"numpy==1.26\n", "index.ipynb": b'{"cells": []}\n'}
NEW = {"requirements.txt": b"numpy==2.0\n", "index.ipynb": b'{"cells": [1]}\n', "data.csv": b"a,b\n1,2\n"}

ROOMY = FetchLimits(2_000_000_000)


class Clock:
    """Seconds, as a test moves them on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Asked:
    """A provider over one archive, with what it was made of."""

    provider: RecordProvider
    source: RecordSource
    rules: OutgoingRules
    clock: Clock

    async def resolve(self, locator: str, ref: str = "") -> ResolvedRef:
        return await self.provider.resolve(RepoSpec(self.source.name, locator, ref))

    async def fetch(self, resolved: ResolvedRef, folder: Path, limits: FetchLimits = ROOMY) -> list[str]:
        """What people are told while it is fetched."""
        found = split_fetch_url(resolved.fetch_url, {self.source.name: self.source})
        assert found is not None
        said: list[str] = []
        await fetch_record(*found, resolved.version, folder, self.rules, limits, say=said.append)
        return said


@asynccontextmanager
async def asked(source: RecordSource, rules: OutgoingRules) -> AsyncIterator[Asked]:
    """A provider whose clock stands until a test moves it."""
    clock = Clock()
    async with asyncio.TaskGroup() as tasks, Asker(rules) as ask:
        yield Asked(RecordProvider(source, ProviderContext(rules, tasks, ask, clock=clock)), source, rules, clock)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def zipped(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o755 if name.endswith("postBuild") else 0o644)) << 16
            packed.writestr(entry, content)
    return held.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755 if name.endswith("postBuild") else 0o644
            packed.addfile(member, io.BytesIO(content))
    return held.getvalue()


PUBLIC = {
    "zenodo": "10.5281/zenodo.3242074",
    "figshare": "10.6084/m9.figshare.9782777.v1",
    "dataverse": "10.7910/DVN/TJCLKP",
    "hydroshare": "b8f6eae9d89241cf8b5904033460af61",
}
"""A small record of each, by its locator, for the live runs: those of repo2docker's documentation."""

PUBLIC_DOIS = {
    "10.5281/zenodo.3242074": "zenodo",
    "10.6084/m9.figshare.9782777": "figshare",
    "10.7910/DVN/TJCLKP": "dataverse",
}
"""Whose they are, for the live runs of ``doi``."""
