"""The table of providers in docs/links.md says what the code does."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

from docs import links_table
from replay_build_service.assembly import make_providers, outgoing_rules
from replay_build_service.errors import OriginRefused
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.providers.doi import target_by_doi
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.all_sources import SOURCES
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.syntax import known_syntaxes
from tests.archives.direct import Direct
from tests.archives.server import ArchiveServer
from tests.archives.swh import SwhServer
from tests.integration.record_cases import ARCHIVES
from tests.unit.provider_cases import PROVIDERS

ROWS = [(name, row.example) for name, row in links_table.ROWS.items()]
# Providers of other packages, such as those of tests, are not of this page.
OURS = [syntax for syntax in known_syntaxes() if "toy" not in syntax.provider]

STAND_INS: tuple[type[ArchiveServer], ...] = (*ARCHIVES, SwhServer)


def test_the_page_is_as_it_is_made() -> None:
    page = links_table.PAGE.read_text(encoding="utf-8")
    assert links_table.with_table(page, links_table.table(OURS)) == page, "python -m docs.links_table writes it"


def test_a_table_that_is_not_of_the_code_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "links.md"
    copy.write_text(links_table.PAGE.read_text(encoding="utf-8").replace("| `osf` |", "| `osg` |"), encoding="utf-8")
    monkeypatch.setattr(links_table, "PAGE", copy)
    monkeypatch.setattr(links_table, "known_syntaxes", lambda: OURS)
    assert links_table.main(["--check"]) == 1
    assert "docs.links_table" in capsys.readouterr().err
    assert (links_table.main([]), links_table.main(["--check"])) == (0, 0)
    with pytest.raises(ValueError, match="zenodo"):
        links_table.table([syntax for syntax in OURS if syntax.provider != "zenodo"])
    with pytest.raises(ValueError, match="begins and ends"):
        links_table.with_table("# Links", "")
    monkeypatch.setitem(cast("dict[str, links_table.Row]", links_table.ROWS), "osf", links_table.Row("", "gh/o/r/HEAD"))
    with pytest.raises(ValueError, match="not how a link to osf"):
        links_table.table(OURS)


def test_every_provider_is_held_to_its_cases() -> None:
    """What runs them: `test_providers` and `test_records`, `test_swh` and `test_doi`."""
    assert {name for name, _ in ROWS} == {
        *(provider.name for provider in PROVIDERS),
        *(archive.provider for archive in STAND_INS),
        "doi",
    }


class AsThere(Direct):
    """A stand-in in the place of the archive itself, where what was published is what an example names."""

    def __init__(self, archive: ArchiveServer, names: Sequence[tuple[str, str]]) -> None:
        super().__init__(archive, self._back)
        self._names = names

    def may_ask(self, url: str) -> bool:
        return True

    async def json(
        self, url: str, model: type[BaseModel], *, missing: str, body: Mapping[str, Any] | None = None
    ) -> BaseModel:
        for example, published in self._names:
            url = url.replace(example, published)
        return await super().json(url, model, missing=missing, body=body)

    def _back(self, value: Any) -> Any:
        text = json.dumps(value)
        for example, published in self._names:
            text = text.replace(published, example)
        return json.loads(text)


def _last(locator: str) -> str:
    return re.split(r"[/.:]", re.sub(r"\.v[0-9]+$", "", locator))[-1]


@pytest.mark.parametrize("kind", STAND_INS, ids=lambda kind: kind.provider)
async def test_the_worked_example_of_an_archive_resolves_to_a_version_that_stays(kind: type[ArchiveServer]) -> None:
    spec = RepoSpec.parse(links_table.ROWS[kind.provider].example)
    with kind() as archive:
        if isinstance(archive, SwhServer):
            published = f"swh:1:rev:{archive.revision(archive.directory({'a': b'1'}))}"
        else:
            published = archive.publish({"a": b"1"}).locator
        names = [(spec.locator, published), (_last(spec.locator), _last(published))]
        ask = cast("Asker", AsThere(archive, names))
        source = SOURCES[kind.provider]
        record = await source.find(ask, spec.locator, None)
        assert (await source.listed(ask, record.api_url)).pinned == record.pinned
    assert RepoSpec.parse(spec.pinned_to(record.pinned).text).ref == record.pinned
    assert Repository.of_url(record.identity).url.startswith("https://")


def test_the_worked_example_of_a_doi_is_one_of_an_archives() -> None:
    doi = RepoSpec.parse(links_table.ROWS["doi"].example)
    target = target_by_doi(doi.locator, Dataverse())
    assert target is not None
    assert f"{target.provider}/{target.locator}" == links_table.ROWS[target.provider].example


@pytest.mark.parametrize(("name", "example"), ROWS, ids=[name for name, _ in ROWS])
def test_the_worked_example_is_a_link(name: str, example: str) -> None:
    spec = RepoSpec.parse(example)
    assert spec.provider == name
    assert RepoSpec.parse(spec.text) == spec


@pytest.mark.parametrize(("name", "example"), ROWS, ids=[name for name, _ in ROWS])
async def test_the_worked_example_is_asked_of_a_host_that_is_allowed_from_the_start(name: str, example: str) -> None:
    """Whether it is there, too, is asked by `tests/integration/test_live_records.py`. Here nobody may be asked."""
    settings = ServiceSettings(allowed_hosts=[], archive_hosts=[])
    async with asyncio.TaskGroup() as tasks, Asker(outgoing_rules(settings).for_archives()) as ask:
        with pytest.raises(OriginRefused, match="is not among the hosts") as told:
            await make_providers(settings, tasks, ask)[name].resolve(RepoSpec.parse(example))
    assert outgoing_rules(ServiceSettings()).for_archives().allows(told.value.sentence.split()[0], 443)
