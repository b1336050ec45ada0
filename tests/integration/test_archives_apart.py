"""What one archive has and the others have not: files that are not for everybody, spellings, places elsewhere, odd answers.

What all have in common is in ``test_records``; Software Heritage, which has no records, in ``test_swh``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from replay_build_service.errors import BadLink, OriginRefused, RefNotFound, Refused, RepositoryNotFound, SourceFault
from replay_build_service.links import Repository
from replay_build_service.outgoing import DEFAULT_ALLOWED_HOSTS, DEFAULT_ARCHIVE_HOSTS, OutgoingRules
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.ckan import Ckan
from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.sources.dataverse_installations import (
    Installation,
    read_installations,
    shipped_installations,
)
from tests.archives import server as wrong
from tests.archives.ckan import CkanServer
from tests.archives.dataverse import ELSEWHERE, DataverseServer
from tests.archives.figshare import FigshareServer
from tests.archives.hydroshare import HydroShareServer
from tests.archives.osf import OsfServer
from tests.archives.server import Answer, ArchiveServer
from tests.integration.record_cases import Asked, asked, tree

pytestmark = pytest.mark.hub_independent

FILES = {"index.ipynb": b"{}\n", "data/table.csv": b"a,b\n1,2\n", "data/secret.csv": b"c,d\n3,4\n"}
FLAT = {"index.ipynb": b"{}\n", "table.csv": b"a,b\n1,2\n"}


@asynccontextmanager
async def over(archive: ArchiveServer) -> AsyncIterator[Asked]:
    async with asked(archive.source(), archive.rules) as here:
        yield here


# ---- Dataverse


async def test_files_that_are_not_for_everybody_are_left_out_and_told(tmp_path: Path) -> None:
    with DataverseServer() as archive:
        record = archive.publish(FILES)
        archive.datasets[record.locator].closed = {"data/secret.csv"}
        archive.datasets[record.locator].embargoed = {"data/table.csv"}
        async with over(archive) as here:
            said = await here.fetch(await here.resolve(record.locator), tmp_path / "source")
            assert said == ["2 files of the dataset cannot be downloaded by everybody, so they are left out."]
            assert tree(tmp_path / "source") == {"index.ipynb": b"{}\n"}
            archive.restrict(record)
            here.clock.now += 7200
            with pytest.raises(RepositoryNotFound, match=r"All files .* restricted or under an embargo"):
                await here.resolve(record.locator)


async def test_a_table_is_fetched_as_it_was_uploaded(tmp_path: Path) -> None:
    with DataverseServer() as archive:
        record = archive.publish(FILES | {"data/secret.tab": b"an upload of its own"})
        archive.datasets[record.locator].tables = {"data/table.csv", "data/secret.csv"}
        async with over(archive) as here:
            await here.fetch(await here.resolve(record.locator), tmp_path / "source")
        assert tree(tmp_path / "source") == FILES | {"data/secret.tab": b"an upload of its own"}


async def test_a_table_whose_upload_has_another_files_name_stays_a_table(tmp_path: Path) -> None:
    with DataverseServer() as archive:
        record = archive.publish(FILES)
        archive.datasets[record.locator].tables = {"data/table.csv"}
        label = {"label": "secret.csv", "directoryLabel": "data"}
        proper = archive.answer

        def answer(request: wrong.Request) -> Answer:
            """The table was uploaded under the name of a file that is there."""
            given = proper(request)
            return replace(
                given, body=given.body.replace(b'"originalFileName": "table.csv"', b'"originalFileName": "secret.csv"')
            )

        archive.answer = answer  # type: ignore[method-assign] # this archive answers otherwise
        async with over(archive) as here:
            await here.fetch(await here.resolve(record.locator), tmp_path / "source")
        found = tree(tmp_path / "source")
        assert found[f"{label['directoryLabel']}/{label['label']}"] == FILES["data/secret.csv"]
        assert found["data/table.tab"] == b"a\tb\n1\t2\n"


async def test_a_files_doi_means_its_dataset() -> None:
    with DataverseServer() as archive:
        record = archive.publish(FILES, FILES | {"more": b"1"})
        async with over(archive) as here:
            whole = await here.resolve(record.locator)
            of_file = await here.resolve(f"{record.locator}/XYZ123")
            older = await here.resolve(f"{record.locator}/XYZ123", "1.0")
            assert (of_file.repository, of_file.version) == (whole.repository, whole.version)
            assert older.version == (await here.resolve(record.locator, "1.0")).version
            with pytest.raises(RefNotFound, match=r"no published version 7\.0: they are numbered like 1\.0"):
                await here.resolve(f"{record.locator}/XYZ123", "7.0")


async def test_doi_org_tells_the_installation_where_the_prefix_does_not() -> None:
    with DataverseServer() as archive:
        record = archive.publish(FILES, prefix=ELSEWHERE)
        async with over(archive) as here:
            assert (await here.resolve(record.locator)).short_version == "1.0"
            with pytest.raises(RepositoryNotFound, match="There is no DOI"):
                await here.resolve(f"{ELSEWHERE}NONE")
            assert archive.count("GET /api/handles/10.9999/") == 2
            landing = {"values": [{"type": "URL", "data": {"value": "https://zenodo.org/records/1"}}]}
            archive.faults.append(wrong.Fault(Answer.of_json(landing), "handles"))
            with pytest.raises(BadLink, match=r"leads to zenodo\.org, which is no Dataverse that this Replay knows"):
                await here.resolve(f"{ELSEWHERE}OTHER")


def test_an_installation_is_known_by_its_dois_and_by_its_host() -> None:
    known = Dataverse()
    assert known.host_of("10.7910/DVN/TJCLKP") == known.host_of("10.7910/dvn/tjclkp") == "dataverse.harvard.edu"
    assert known.host_of("10.5281/zenodo.1") is None
    assert known.is_installation("Dataverse.NL")
    assert not known.is_installation("example.org")
    more = Dataverse((Installation("data.example.org", ("10.7910/DVN/OURS",)), *known.installations))
    assert more.host_of("10.7910/DVN/OURS1") == "data.example.org", "the longest prefix counts"


def test_the_shipped_list_is_one() -> None:
    hosts = [one.host for one in shipped_installations()]
    prefixes = [prefix.lower() for one in shipped_installations() for prefix in one.prefixes]
    assert hosts == sorted(set(hosts))
    assert len(hosts) > 50
    assert len(prefixes) == len(set(prefixes))
    assert all(prefix.startswith("10.") and "/" in prefix for prefix in prefixes)


def test_the_communitys_list_is_read_as_it_is() -> None:
    community = (
        '{"installations": [{"name": "Edmond", "lat": 48.1, "hostname": "Edmond.MPDL.mpg.de/", "metrics": true}]}'
    )
    assert read_installations(community) == (Installation("edmond.mpdl.mpg.de"),)
    for other in ("", "[]", '{"installations": [{}]}', '{"installations": {"hostname": "x"}}', "[" * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011  JSON's own, too
            read_installations(other)


# ---- HydroShare


async def test_a_doi_of_hydroshare_is_its_resource(tmp_path: Path) -> None:
    with HydroShareServer() as archive:
        record = archive.publish(FILES)
        archive.resources[record.locator].large = "data/table.csv"
        async with over(archive) as here:
            resolved = await here.resolve(record.locator)
            assert (await here.resolve(f"10.4211/hs.{record.locator}")).version == resolved.version
            await here.fetch(resolved, tmp_path / "source")
        assert tree(tmp_path / "source") == FILES, "what is no MD5 is not compared as one"


# ---- what keeps no older versions


@pytest.mark.parametrize("kind", [HydroShareServer, OsfServer, CkanServer], ids=lambda kind: kind.provider)
async def test_a_version_that_is_past_is_told_with_the_one_that_is(kind: type[ArchiveServer]) -> None:
    with kind() as archive:
        record = archive.publish(FLAT)
        async with over(archive) as here:
            first = await here.resolve(record.locator)
            archive.add_version(record, FLAT | {"more": b"1"})
            here.clock.now += 7200
            second = await here.resolve(record.locator)
            assert second.version != first.version
            assert second.repository == first.repository
            with pytest.raises(RefNotFound, match=r"older") as caught:
                await here.resolve(record.locator, first.version)
            assert caught.value.nearest == (second.version,)


# ---- OSF


async def test_a_registration_has_one_version_for_good(tmp_path: Path) -> None:
    with OsfServer() as archive:
        record = archive.publish(FILES, kind="registrations")
        async with over(archive) as here:
            resolved = await here.resolve(record.locator)
            assert resolved.short_version == "20240203T040506"
            assert (await here.resolve(f"10.17605/OSF.IO/{record.locator.upper()}")).version == resolved.version
            await here.fetch(resolved, tmp_path / "source")
        assert tree(tmp_path / "source") == FILES


@pytest.mark.parametrize(
    "extra", [{"withdrawn": True}, {"embargoed": True}, {"public": False}], ids=lambda extra: next(iter(extra))
)
async def test_a_registration_that_is_closed_is_told(extra: Mapping[str, Any]) -> None:
    with OsfServer() as archive:
        record = archive.publish(FILES, kind="registrations", **extra)
        async with over(archive) as here:
            with pytest.raises(RepositoryNotFound, match="not public"):
                await here.resolve(record.locator)


async def test_a_project_of_too_many_folders_costs_few_requests() -> None:
    with OsfServer() as archive:
        record = archive.publish({f"{number}/a": b"" for number in range(60)})
        async with over(archive) as here:
            with pytest.raises(Refused, match=r"at most 40 lists.*Put them into one ZIP file there"):
                await here.resolve(record.locator)
        assert len(archive.requests) < 50, "anybody has a hundred an hour"


# ---- figshare


@pytest.mark.parametrize("doi", ["10.5281/zenodo.{number}", "10.17605/osf.io/{number}", "10.4211/HS.{number}"])
async def test_no_article_is_taken_for_another_archives_record(doi: str) -> None:
    """Institutions give their articles DOIs of their own choice, and policies know records by these alone."""
    with FigshareServer() as archive:
        record = archive.publish(FLAT, doi=doi)
        async with over(archive) as here:
            with pytest.raises(RepositoryNotFound, match="none of figshare's"):
                await here.resolve(record.locator)


async def test_a_version_in_the_name_and_another_one_behind_it_are_not_both_meant() -> None:
    with FigshareServer() as archive:
        record = archive.publish(FLAT, FLAT | {"more": b"1"})
        async with over(archive) as here:
            first = await here.resolve(record.locators[0])
            assert await here.resolve(record.locators[0], "1") == replace(first, spec=ANY)
            with pytest.raises(RefNotFound, match="names version 1, and not 2") as caught:
                await here.resolve(record.locators[0], "2")
            assert caught.value.nearest == (first.version,)


# ---- CKAN


@pytest.mark.parametrize(
    "spelling",
    [
        "{url}/dataset/data-0",
        "{url}/dataset/data-0/",
        "{url}/dataset/id-of-data-0",
        "{url}/en/dataset/data-0",
        "{url}/pt_BR/dataset/data-0?page=2#more",
        "{url}/zh_Hans_CN/dataset/data-0",
        "{url}/fr/en/dataset/data-0",
        "{url}/dataset/data-0/resource/0",
        "{url}/dataset/activity/data-0",
    ],
)
async def test_every_address_of_a_dataset_is_that_dataset(spelling: str) -> None:
    with CkanServer() as archive:
        record = archive.publish(FLAT)
        async with over(archive) as here:
            resolved = await here.resolve(spelling.format(url=archive.url))
            assert resolved.repository == Repository.of_url(record.identity)


@pytest.mark.parametrize(
    "locator",
    [
        "{url}/dataset/",
        "{url}/data/data-0",
        "{url}/dataset/a%2Fb",
        "{url}/dataset/../admin",
        "{url}/dataset/x?activity_id=a%26b",
    ],
)
async def test_what_is_no_address_of_a_dataset_is_told(locator: str) -> None:
    with CkanServer() as archive:
        async with over(archive) as here:
            with pytest.raises(BadLink, match="percent-encoded"):
                await here.resolve(locator.format(url=archive.url))
        assert not archive.requests


@pytest.mark.parametrize(
    "host",
    [
        "codeberg.org/o/r/raw/branch/main",
        "git.example.org/o/r/raw",
        "storage.googleapis.com/bucket",
        "s3-eu-west-1.amazonaws.com/bucket",
        "files.osf.io",
        "zenodo.org",
    ],
)
async def test_no_host_is_a_portal_because_git_or_another_archives_files_are_had_from_it(host: str) -> None:
    """Anybody can put there what looks like a portal's answers, under a name that no policy knows."""
    git_too = DEFAULT_ALLOWED_HOSTS | {"git.example.org"}
    rules = OutgoingRules(git_too, archive_hosts=DEFAULT_ARCHIVE_HOSTS | {"data.example.org"}).for_archives()
    asked_of: list[str] = []

    async def nowhere(name: str, port: int) -> list[str]:
        asked_of.append(name)
        raise SourceFault("The name could not be resolved.")

    async with Asker(rules, resolver=nowhere) as ask:
        for ask_for in (
            Ckan().find(ask, f"https://{host}/dataset/waves", None),
            Ckan().listed(ask, f"https://{host}/api/3/action/package_show?id=waves"),
        ):
            with pytest.raises(OriginRefused, match=r"takes for portals"):
                await ask_for
        assert asked_of == []
        for portal in ("data.example.org", "demo.ckan.org"):
            with pytest.raises(SourceFault):
                await Ckan().find(ask, f"https://{portal}/dataset/waves", None)
        assert set(asked_of) == {"data.example.org", "demo.ckan.org"}


async def test_a_portal_that_nobody_allowed_is_not_asked() -> None:
    with CkanServer() as archive:
        async with over(archive) as here:
            with pytest.raises(OriginRefused, match=r"data\.example\.org is not among the hosts"):
                await here.resolve("https://data.example.org/dataset/waves")


async def test_an_older_list_is_named_by_its_activity() -> None:
    with CkanServer() as archive:
        record = archive.publish(FLAT, FLAT | {"more": b"1"})
        async with over(archive) as here:
            newest = await here.resolve(record.locator)
            for older in ("?activity_id=data-0_0", "/history/data-0_0"):
                resolved = await here.resolve(f"{record.locator}{older}")
                assert resolved.repository == newest.repository
                assert resolved.version != newest.version
                assert resolved.short_version == record.versions[0]


async def test_files_that_a_portal_does_not_keep_are_fetched_where_the_rules_allow_it(tmp_path: Path) -> None:
    with CkanServer() as archive, CkanServer() as other:
        kept_elsewhere = other.publish({"far.csv": b"1\n"})
        record = archive.publish(FLAT)
        far = f"{other.url}/dataset/id-of-{kept_elsewhere.locator.rpartition('/')[2]}/resource/0/download/far.csv"
        archive.datasets["data-0"].resources = [
            {"id": "f1", "url": far, "url_type": None, "size": "12 MB", "hash": "0" * 32, "state": "active"},
            {"id": "f2", "url": "https://example.org/page/", "state": "active"},
            {"id": "f3", "url": "file:///etc/passwd", "state": "active"},
            {"id": "f4", "url": "https://example.org/gone.csv", "state": "deleted"},
            {"id": "f5", "url": "", "state": "active"},
        ]
        async with over(archive) as here:
            said = await here.fetch(await here.resolve(record.locator), tmp_path / "few")
        assert len(said) == 1
        assert said[0].startswith("3 files are kept elsewhere (")
        assert "example.org" in said[0]
        assert tree(tmp_path / "few") == FLAT
        assert not other.requests
        rules = replace(archive.rules, exempt_origins=archive.rules.exempt_origins | other.rules.exempt_origins)
        async with asked(archive.source(), rules) as here:
            await here.fetch(await here.resolve(record.locator), tmp_path / "more")
        assert tree(tmp_path / "more") == FLAT | {"far.csv": b"1\n"}


async def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    with CkanServer() as archive:
        record = archive.publish({"table.csv": b"1"})
        again = f"{archive.url}/dataset/id-of-data-0/resource/1/download/table.csv"
        archive.datasets["data-0"].resources = [{"id": "r9", "url": again, "url_type": "upload", "state": "active"}]
        async with over(archive) as here:
            await here.fetch(await here.resolve(record.locator), tmp_path / "source")
        assert tree(tmp_path / "source") == {"0/table.csv": b"1", "r9/table.csv": b"1"}


async def test_a_portal_of_nothing_but_links_elsewhere_is_told() -> None:
    with CkanServer() as archive:
        record = archive.publish({})
        archive.datasets["data-0"].resources = [{"id": "f2", "url": "https://example.org/page.csv", "state": "active"}]
        async with over(archive) as here:
            with pytest.raises(RepositoryNotFound, match=r"at example\.org, which this Replay does not fetch from"):
                await here.resolve(record.locator)


# ---- odd answers


def _without(*path: str) -> Callable[[Any], Any]:
    def changed(answer: Any) -> Any:
        inner = answer
        for name in path[:-1]:
            inner = inner[name] if not isinstance(inner, list) else inner[0]
        del inner[path[-1]]
        return answer

    return changed


def _with(value: object, *path: str) -> Callable[[Any], Any]:
    def changed(answer: Any) -> Any:
        inner = answer
        for name in path[:-1]:
            inner = inner[0] if name == "0" else inner[name]
        inner[path[-1]] = value
        return answer

    return changed


ODD: list[tuple[type[ArchiveServer], str, Callable[[Any], Any]]] = [
    (DataverseServer, "versions", _without("data")),
    (DataverseServer, "versions", _without("data", "versionNumber")),
    (DataverseServer, "versions", _with(-1, "data", "versionNumber")),
    (DataverseServer, "versions", _with("x", "data", "files")),
    (DataverseServer, "versions", _with("1/../2", "data", "files", "0", "dataFile", "id")),
    (DataverseServer, "versions", _with(-5, "data", "files", "0", "dataFile", "filesize")),
    (DataverseServer, "versions", _with("doi:10.5281/zenodo.1", "data", "datasetPersistentId")),
    (DataverseServer, "versions", _with("half a \ud83d letter.csv", "data", "files", "0", "label")),
    (HydroShareServer, "sysmeta", _without("date_last_updated")),
    (HydroShareServer, "sysmeta", _with("yesterday", "date_last_updated")),
    (HydroShareServer, "sysmeta", _with("13-45-2024", "date_last_updated")),
    (HydroShareServer, "sysmeta", _with("f" * 32, "resource_id")),
    (HydroShareServer, "/files/", _without("results")),
    (HydroShareServer, "/files/", _with("https://www.hydroshare.org/elsewhere", "results", "0", "url")),
    (HydroShareServer, "/files/", _with("http://a\u2100b/data/contents/x", "results", "0", "url")),
    (HydroShareServer, "/files/", _with(f"x{'y' * 9000}", "results", "0", "url")),
    (FigshareServer, "articles", _with("\u202e", "doi")),
    (OsfServer, "embed", _without("data", "attributes")),
    (OsfServer, "embed", _with("../x", "data", "id")),
    (OsfServer, "osfstorage", _with("gadget", "data", "0", "attributes", "kind")),
    (OsfServer, "osfstorage", _with("/../../nodes/", "data", "0", "attributes", "path")),
    (OsfServer, "osfstorage", _with("the day before", "data", "0", "attributes", "date_modified")),
    (CkanServer, "package_show", _without("result")),
    (CkanServer, "package_show", _with("../x", "result", "name")),
    (CkanServer, "package_show", _with("", "result", "metadata_modified")),
    (CkanServer, "package_show", _with({}, "result", "resources")),
]
"""What answers from where is changed how."""


@pytest.mark.parametrize(
    ("kind", "where", "change"), ODD, ids=[f"{kind.provider}-{number}" for number, (kind, _, _) in enumerate(ODD)]
)
async def test_an_odd_answer_is_a_fault_and_no_fact(
    kind: type[ArchiveServer], where: str, change: Callable[[Any], Any]
) -> None:
    with kind() as archive:
        record = archive.publish(FLAT)
        proper = archive.answer

        def answer(request: wrong.Request) -> Answer:
            given = proper(request)
            line = f"{request.path}?{'&'.join(request.query)}"
            return Answer.of_json(change(wrong.json.loads(given.body))) if where in line else given

        archive.answer = answer  # type: ignore[method-assign] # this archive answers otherwise
        async with over(archive) as here:
            with pytest.raises(SourceFault, match="Try again later"):
                await here.resolve(record.locator)
