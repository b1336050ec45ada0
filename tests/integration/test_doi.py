"""``doi/…``: whose a DOI is, and that what it opens is what the archive's own link opens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import stamina

from replay_build_service.errors import OriginRefused, RefNotFound, RepositoryNotFound, SourceFault
from replay_build_service.links import RepoSpec, ResolvedRef
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.doi import DoiProvider, Target, target_by_doi, target_by_page
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.asking import Asker
from tests.archives import server as wrong
from tests.archives.doi import DoiServer
from tests.archives.figshare import FigshareServer
from tests.archives.zenodo import ZenodoServer
from tests.integration.record_cases import Clock

pytestmark = pytest.mark.hub_independent


class Dataverses:
    """Two installations, of which one has a prefix of its own."""

    def is_installation(self, host: str) -> bool:
        return host in {"dataverse.example.edu", "data.example.org:8443"}

    def host_of(self, doi: str) -> str | None:
        return "dataverse.example.edu" if doi.startswith("10.7910/DVN/") else None


ID = "d7b5a9a2e0f34d4a9d0b3f0e5c1a2b3c"
SWHID = "swh:1:dir:" + "0a" * 20
BY_DOI = {
    "10.5281/zenodo.3242074": Target("zenodo", "10.5281/zenodo.3242074"),
    "10.5281/ZENODO.3242074": Target("zenodo", "10.5281/ZENODO.3242074"),
    "10.5072/zenodo.11": Target("zenodo", "10.5072/zenodo.11"),
    "10.6084/m9.figshare.9782777": Target("figshare", "10.6084/m9.figshare.9782777"),
    "10.6084/m9.figshare.9782777.v2": Target("figshare", "10.6084/m9.figshare.9782777.v2"),
    "10.7910/DVN/TJCLKP": Target("dataverse", "10.7910/DVN/TJCLKP"),
    f"10.4211/hs.{ID}": Target("hydroshare", ID),
    f"10.4211/HS.{ID.upper()}": Target("hydroshare", ID),
    "10.17605/OSF.IO/ABCDE": Target("osf", "abcde"),
    "10.5281/zenodo": None,
    "10.5281/other.1": None,
    "10.1038/s41586-020-2649-2": None,
    "10.17605/osf.io/abcdefg": None,
}
BY_PAGE = {
    "https://zenodo.org/record/3242074": Target("zenodo", "10.5281/zenodo.3242074"),
    "https://zenodo.org/records/3242074": Target("zenodo", "10.5281/zenodo.3242074"),
    "https://zenodo.org/doi/10.5281/zenodo.3242073": Target("zenodo", "10.5281/zenodo.3242073"),
    "https://sandbox.zenodo.org/records/7": Target("zenodo", "10.5072/zenodo.7"),
    "https://zenodo.org/communities/x": None,
    "https://figshare.com/articles/dataset/Waves/9782777/2": Target("figshare", "10.9/x"),
    "https://monash.figshare.com/articles/dataset/Waves/9782777": Target("figshare", "10.9/x"),
    "https://data.ncl.example/articles/dataset/Waves/9782777/2": Target("figshare", "10.9/x", is_guess=True),
    "https://www.nature.example/articles/s41586-020-2649-2": None,
    "https://dataverse.example.edu/citation?persistentId=doi:10.9/x": Target("dataverse", "10.9/x"),
    "https://data.example.org:8443/dataset.xhtml": Target("dataverse", "10.9/x"),
    "https://data.example.org/dataset.xhtml": None,
    f"http://www.hydroshare.org/resource/{ID}": Target("hydroshare", ID),
    "https://www.hydroshare.org/about": None,
    "https://osf.io/Abcde/": Target("osf", "abcde"),
    "https://osf.io/preprints/xyz": None,
    f"https://archive.softwareheritage.org/{SWHID};origin=https://example.org": Target("swh", SWHID),
    "https://portal.allowed.example/dataset/waves": Target("ckan", "https://portal.allowed.example/dataset/waves"),
    "https://portal.other.example/dataset/waves": None,
    "https://www.science.example/doi/10.1126/x": None,
    "https://zenodo.org.evil.example/records/1": None,
    "https://evilfigshare.com/x": None,
    "ftp://zenodo.org/record/3242074": None,
    "https://[broken/": None,
    "": None,
}


@pytest.mark.parametrize("doi", BY_DOI)
def test_some_dois_say_whose_they_are(doi: str) -> None:
    assert target_by_doi(doi, Dataverses()) == BY_DOI[doi]


@pytest.mark.parametrize("page", BY_PAGE)
def test_the_address_of_a_doi_says_whose_it_is(page: str) -> None:
    found = target_by_page(page, "10.9/x", Dataverses(), lambda page: "//portal.allowed.example/" in page)
    assert found == BY_PAGE[page]


@dataclass
class Bench:
    zenodo: ZenodoServer
    figshare: FigshareServer
    doi: DoiServer
    provider: DoiProvider
    providers: dict[str, RepoProvider]
    clock: Clock

    async def resolve(self, text: str) -> ResolvedRef:
        spec = RepoSpec.parse(text)
        return await (self.provider if spec.provider == "doi" else self.providers[spec.provider]).resolve(spec)


@pytest.fixture
def servers() -> Iterator[tuple[ZenodoServer, FigshareServer, DoiServer]]:
    with ExitStack() as stack, stamina.set_testing(True, attempts=3):
        yield (
            stack.enter_context(ZenodoServer()),
            stack.enter_context(FigshareServer()),
            stack.enter_context(DoiServer()),
        )


@pytest.fixture
async def bench(servers: tuple[ZenodoServer, FigshareServer, DoiServer]) -> AsyncIterator[Bench]:
    zenodo, figshare, doi = servers
    rules = OutgoingRules(frozenset(), frozenset(server.url for server in servers))
    clock = Clock()
    async with asyncio.TaskGroup() as tasks, Asker(rules) as ask:
        context = ProviderContext(rules, tasks, ask, clock=clock)
        providers: dict[str, RepoProvider] = {
            "zenodo": RecordProvider(zenodo.source(), context),
            "figshare": RecordProvider(figshare.source(), context),
        }
        yield Bench(zenodo, figshare, doi, DoiProvider(context, providers, Dataverses(), doi.url), providers, clock)


FILES = {"index.ipynb": b"{}"}


async def test_a_doi_opens_what_its_archives_own_link_opens(bench: Bench) -> None:
    for archive in (bench.zenodo, bench.figshare):
        record = archive.publish(FILES, {**FILES, "more": b""})
        for locator in (record.locator, *record.locators):
            by_doi = await bench.resolve(f"doi/{locator}")
            own = await bench.resolve(f"{archive.provider}/{locator}")
            assert by_doi.spec.text == f"doi/{locator}"
            assert (by_doi.repository, by_doi.fetch_url, by_doi.version) == (own.repository, own.fetch_url, own.version)
            pinned = await bench.resolve(f"doi/{locator}@{own.version}")
            assert (pinned.version, pinned.spec.ref) == (own.version, own.version)
    assert not bench.doi.requests, "these DOIs say whose they are"


async def test_an_institutions_doi_is_looked_up_once_an_hour(bench: Bench) -> None:
    record = bench.figshare.publish(FILES, doi="10.25405/data.ncl.{number}")
    number = record.locator.rpartition(".")[2]
    bench.doi.addresses[record.locator] = f"https://data.ncl.example/articles/dataset/Waves/{number}"
    found = await asyncio.gather(*(bench.resolve(f"doi/{record.locator}") for _ in range(10)))
    assert {one.repository.url for one in found} == {record.identity}
    assert bench.doi.requests == [f"GET /api/handles/{record.locator}?type=URL"]
    bench.clock.now += 3601
    await bench.resolve(f"doi/{record.locator}")
    assert len(bench.doi.requests) == 2


async def test_a_doi_of_no_known_archive_says_which_there_are(bench: Bench) -> None:
    bench.doi.addresses |= {
        "10.1038/abc": "https://www.nature.example/articles/abc",
        "10.1038/def": "https://journal.example/articles/waves/9782777",
        "10.1038/ghi": "urn:isbn:1",
    }
    for doi, host in (
        ("10.1038/abc", "www.nature.example"),
        ("10.1038/def", "journal.example"),
        ("10.1038/ghi", "no web"),
    ):
        with pytest.raises(RepositoryNotFound, match=rf"leads to {host}.*can open: Zenodo, figshare\."):
            await bench.resolve(f"doi/{doi}")


async def test_what_doi_org_does_not_know_is_told(bench: Bench) -> None:
    with pytest.raises(RepositoryNotFound, match=r"There is no DOI 10\.9999/nothing"):
        await bench.resolve("doi/10.9999/nothing")
    bench.doi.addresses["10.9999/empty"] = ""
    with pytest.raises(RepositoryNotFound, match="There is no DOI"):
        await bench.resolve("doi/10.9999/empty")


async def test_errors_of_the_archive_are_the_archives(bench: Bench) -> None:
    record = bench.zenodo.publish(FILES)
    with pytest.raises(RefNotFound):
        await bench.resolve(f"doi/{record.locator}@99")
    bench.zenodo.withdraw(record)
    bench.clock.now += 100
    with pytest.raises(RepositoryNotFound, match="gone"):
        await bench.resolve(f"doi/{record.locator}")


async def test_doi_org_that_is_unwell_or_off_the_list_is_told(bench: Bench) -> None:
    bench.doi.faults.append(wrong.broken())
    with pytest.raises(SourceFault, match="Try again"):
        await bench.resolve("doi/10.9999/x")
    async with asyncio.TaskGroup() as tasks, Asker(OutgoingRules()) as ask:
        context = ProviderContext(OutgoingRules(), tasks, ask)
        with pytest.raises(OriginRefused):
            await DoiProvider(context, bench.providers, Dataverses(), bench.doi.url).resolve(
                RepoSpec.parse("doi/10.9999/y")
            )
