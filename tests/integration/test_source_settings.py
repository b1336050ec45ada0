"""What an administrator adds to the archives that Replay knows: installations of Dataverse, and tokens by host. Over real TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay_build_service.assembly import UnusableSettings, make_providers, outgoing_rules, source_tokens
from replay_build_service.assembly.common import installations
from replay_build_service.errors import RepositoryNotFound
from replay_build_service.links import RepoSpec
from replay_build_service.outgoing import DEFAULT_ALLOWED_HOSTS, OutgoingRules
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.all_sources import SOURCES
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import split_fetch_url
from replay_build_service.sources.dataverse_installations import Installation, known_installations
from replay_build_service.sources.fetching import FetchLimits, fetch_record
from tests.archives import server as wrong
from tests.archives.dataverse import PREFIX, DataverseServer
from tests.archives.zenodo import ZenodoServer
from tests.integration.record_cases import OLD, tree
from tests.integration.test_git import make_certificate

pytestmark = pytest.mark.one_hub_version

TOKEN = "a-secret.of_the~site/1+2=="


class SecureDataverse(DataverseServer):
    """A Dataverse with TLS, as all are."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")

    @property
    def authorizations(self) -> list[str | None]:
        return [headers.get("authorization") for headers in self.headers]


@pytest.fixture
def secured(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    return make_certificate(tmp_path, "localhost")


@pytest.fixture
def dataverse(secured: tuple[ssl.SSLContext, str]) -> Iterator[SecureDataverse]:
    with SecureDataverse(secured[0]) as running:
        yield running


def listing(file: Path, *entries: dict[str, object]) -> str:
    file.write_text(json.dumps({"installations": entries}))
    return str(file)


def site(dataverse: SecureDataverse, authority: str, folder: Path, **more: str) -> ServiceSettings:
    """As an administrator has it who added one installation, and whose network is this machine."""
    return ServiceSettings(
        dataverse_installations=listing(folder / "ours.json", {"hostname": dataverse.host, "prefixes": [PREFIX]}),
        exempt_origins=[dataverse.url],
        ca_file=authority,
        **more,
    )


async def test_an_installation_of_the_administrators_is_opened_by_either_link(
    dataverse: SecureDataverse, secured: tuple[ssl.SSLContext, str], tmp_path: Path
) -> None:
    record = dataverse.publish(OLD)
    (tmp_path / "tokens").write_text(f"# of an account that sees what everybody sees\n\n{dataverse.host} {TOKEN}\n")
    settings = site(dataverse, secured[1], tmp_path, source_tokens_file=str(tmp_path / "tokens"))
    rules = outgoing_rules(settings).for_archives()
    async with asyncio.TaskGroup() as tasks, Asker(rules, tokens=source_tokens(settings)) as ask:
        providers = make_providers(settings, tasks, ask)
        own = await providers["dataverse"].resolve(RepoSpec("dataverse", record.locator, ""))
        by_doi = await providers["doi"].resolve(RepoSpec("doi", record.locator, ""))
    assert (by_doi.version, by_doi.repository) == (own.version, own.repository)
    assert set(dataverse.authorizations) == {f"Bearer {TOKEN}"}
    dataverse.headers.clear()
    # Builds find the installation by the address alone, and have the rules from the service.
    there = split_fetch_url(own.fetch_url, SOURCES)
    assert there is not None
    theirs = OutgoingRules.from_json(outgoing_rules(settings).to_json()).for_archives()
    await fetch_record(*there, own.version, tmp_path / "source", theirs, FetchLimits(10**8))
    assert tree(tmp_path / "source") == OLD
    assert set(dataverse.authorizations) == {None}, "a build has no token"
    assert TOKEN not in outgoing_rules(settings).to_json()


async def test_a_token_goes_to_its_host_and_not_where_that_redirects(
    dataverse: SecureDataverse, secured: tuple[ssl.SSLContext, str]
) -> None:
    context, authority = secured
    with SecureDataverse(context) as other:
        record = dataverse.publish(OLD)
        dataverse.faults.append(wrong.elsewhere(f"{other.url}/api/datasets/:persistentId/versions/1.0?persistentId=x"))
        rules = OutgoingRules(exempt_origins=frozenset({dataverse.url, other.url}), ca_file=authority)
        async with Asker(rules, tokens={dataverse.host: TOKEN}) as ask:
            with pytest.raises(RepositoryNotFound):
                await SOURCES["dataverse"].listed(
                    ask, f"{dataverse.url}/api/datasets/:persistentId/versions/1.0?persistentId=doi:{record.locator}"
                )
        assert set(dataverse.authorizations) == {f"Bearer {TOKEN}"}
        assert other.authorizations
        assert set(other.authorizations) == {None}


async def test_a_token_is_never_sent_in_clear() -> None:
    with ZenodoServer() as archive:
        record = archive.publish(OLD)
        host = archive.url.partition("://")[2]
        async with Asker(archive.rules, tokens={host: TOKEN, "127.0.0.1": TOKEN}) as ask:
            await archive.source().find(ask, record.locator, None)
        assert archive.headers
        assert all("authorization" not in headers for headers in archive.headers)


def test_the_hosts_of_added_installations_may_be_asked_for_records_and_not_with_git(tmp_path: Path) -> None:
    file = listing(tmp_path / "ours.json", {"hostname": "https://Data.Example.org/dataverse/x", "name": "Ours"})
    rules = outgoing_rules(ServiceSettings(dataverse_installations=file, archive_hosts=[]))
    assert rules.archive_hosts == {"data.example.org"}
    assert rules.allowed_hosts == DEFAULT_ALLOWED_HOSTS


def test_a_newer_list_has_the_last_word_on_hosts_and_prefixes_and_takes_none_away(tmp_path: Path) -> None:
    shipped = {one.host: one for one in known_installations()}
    file = listing(
        tmp_path / "newer.json",
        {"hostname": "dataverse.harvard.edu"},  # as the community's list has it, which names no prefixes
        {"hostname": "borealisdata.ca", "prefixes": ["10.99998/"]},
        {"hostname": "new.example.org", "prefixes": ["10.7281/T1/"]},
    )
    known = {one.host: one for one in installations(ServiceSettings(dataverse_installations=file))}
    assert known == shipped | {
        "borealisdata.ca": Installation("borealisdata.ca", ("10.99998/",)),
        "new.example.org": Installation("new.example.org", ("10.7281/T1/",)),
    }
    assert next(host for host, one in known.items() if "10.7281/T1/" in one.prefixes) == "new.example.org"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"installations": [{"hostname": "*.example.org"}]}',
        '{"installations": [{"hostname": "http://example.org"}]}',
        '{"installations": [{"hostname": "user@example.org"}]}',
        '{"installations": [{"hostname": "/"}]}',
        '{"installations": [{"hostname": "example.org", "prefixes": ["10"]}]}',
        '{"installations": [{"hostname": "example.org", "prefixes": [""]}]}',
    ],
    ids=["array", "cut", "pattern", "http", "user", "path", "short prefix", "no prefix"],
)
def test_a_list_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "list.json"
    file.write_text(text)
    settings = ServiceSettings(dataverse_installations=str(file))
    for made in (outgoing_rules, installations):
        with pytest.raises(
            UnusableSettings, match=r"^ReplayBuildService\.dataverse_installations: .*list\.json cannot"
        ):
            made(settings)
    with pytest.raises(UnusableSettings, match="No such file"):
        outgoing_rules(ServiceSettings(dataverse_installations=str(tmp_path / "none")))


@pytest.mark.parametrize(
    "line",
    [
        "zenodo.org",
        f"zenodo.org Bearer {TOKEN}",
        f"https://zenodo.org {TOKEN}",
        f"*.zenodo.org {TOKEN}",
        f"me@zenodo.org {TOKEN}",
        "zenodo.org secret\u00e4",
        f"osf.io {TOKEN}",
    ],
)
def test_a_file_of_tokens_that_cannot_be_used_is_told_without_them(tmp_path: Path, line: str) -> None:
    (tmp_path / "tokens").write_text(f"osf.io {TOKEN}\n{line}\n", encoding="utf-8")
    with pytest.raises(
        UnusableSettings, match=r"source_tokens_file: line 2 of .*tokens should read HOST TOKEN"
    ) as told:
        source_tokens(ServiceSettings(source_tokens_file=str(tmp_path / "tokens")))
    assert TOKEN not in str(told.value)
    assert "secret" not in str(told.value)


def test_tokens_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnusableSettings, match="No such file"):
        source_tokens(ServiceSettings(source_tokens_file=str(tmp_path / "none")))
    (tmp_path / "bytes").write_bytes(b"osf.io \xff\xfe")
    with pytest.raises(UnusableSettings, match="is no text") as told:
        source_tokens(ServiceSettings(source_tokens_file=str(tmp_path / "bytes")))
    assert told.value.__cause__ is None
    assert source_tokens(ServiceSettings()) == {}
