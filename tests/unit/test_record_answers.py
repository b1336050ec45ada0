"""No answer of an archive breaks its source: whatever stands in it, there is a record that holds together, or an error of our own.

The stand-ins answer without a network here, and any part of what they say is another value.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from replay_build_service.errors import ReplayError, RepositoryNotFound, SourceFault
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import Origin
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, split_fetch_url
from tests.archives.ckan import CkanServer
from tests.archives.dataverse import DataverseServer
from tests.archives.figshare import FigshareServer
from tests.archives.hydroshare import HydroShareServer
from tests.archives.osf import OsfServer
from tests.archives.server import ArchiveServer, Request
from tests.archives.swh import SwhServer
from tests.archives.zenodo import ZenodoServer

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]

FILES = {"index.ipynb": b"{}\n", "table.csv": b"a,b\n1,2\n"}


class Direct:
    """An `Asker` that goes to the stand-in itself, and changes what it says."""

    def __init__(self, archive: ArchiveServer, change: Callable[[Any], Any]) -> None:
        self._archive = archive
        self._change = change
        self._asked = 0

    def may_ask(self, url: str) -> bool:
        return url.startswith(self._archive.url)

    def is_portal(self, url: str) -> bool:
        return self.may_ask(url)

    async def json(
        self, url: str, model: type[BaseModel], *, missing: str, body: Mapping[str, Any] | None = None
    ) -> BaseModel:
        self._asked += 1
        assert self._asked < 500, "it asks without an end"
        Origin.of_url(url)
        for _ in range(5):
            parts = urlsplit(url)
            given_body = b"" if body is None else json.dumps(body).encode()
            query = dict(parse_qsl(parts.query))
            answer = self._archive.answer(
                Request("GET" if body is None else "POST", unquote(parts.path), query, given_body, {})
            )
            if "Location" not in answer.headers:
                break
            url = urljoin(url, answer.headers["Location"])
        if answer.status >= 400:
            raise RepositoryNotFound(missing)
        try:
            return model.model_validate_json(json.dumps(self._change(json.loads(answer.body))))
        except ValidationError as error:
            raise SourceFault("It was not understood.") from error


def _published(archive: ArchiveServer) -> str:
    if isinstance(archive, SwhServer):
        revision = archive.revision(archive.directory(FILES))
        release = archive.release(revision, "revision")
        return f"swh:1:snp:{archive.snapshot({'HEAD': ('alias', 'x'), 'x': ('release', release)})}"
    return archive.publish(FILES).locator


@pytest.fixture(
    scope="module",
    params=[ZenodoServer, FigshareServer, DataverseServer, HydroShareServer, OsfServer, CkanServer, SwhServer],
    ids=lambda kind: kind.provider,
)
def there(request: pytest.FixtureRequest) -> Iterator[tuple[ArchiveServer, str]]:
    with request.param() as archive:
        yield archive, _published(archive)


_ODD = """ ../x a/b /etc/passwd file:///etc/passwd https://example.org/x http://[::1 %2e%2e 2024-01-31 9999-99-99 10.1/x doi:10.5072/FK2/X alias"""
_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*_ODD.split(" "), "x" * 5000, "\ud83d", "a\0b", "0" * 40, "md5:" + "0" * 32]),
)
_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(allow_nan=False, allow_infinity=False),
        _TEXTS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict):
        for name, below in cast("dict[str, Any]", value).items():
            yield from _places(below, (*path, name))
    elif isinstance(value, list):
        for index, below in enumerate(cast("list[Any]", value)):
            yield from _places(below, (*path, index))


def _changed(value: Any, changes: list[tuple[int, Any]]) -> Any:
    for number, replacement in changes:
        places = list(_places(value))
        path = places[number % len(places)]
        if not path:
            return copy.deepcopy(replacement)
        inner = value
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = copy.deepcopy(replacement)
    return value


async def _record(archive: ArchiveServer, locator: str, changes: list[tuple[int, Any]]) -> Record:
    source = archive.source()
    ask = cast("Asker", Direct(archive, lambda value: _changed(value, changes)))
    record = await source.find(ask, locator, None)
    found = split_fetch_url(record.fetch_url, {source.name: source})
    assert found is not None
    again = await source.listed(ask, found[1])
    assert again.version == record.version or changes
    return record


def _holds_together(record: Record) -> None:
    pinned = RepoSpec(record.source, "x", "").pinned_to(record.pinned)
    assert pinned.ref.rpartition("-")[0] == record.version
    Repository.of_url(record.identity)
    Origin.of_url(record.page)
    for file in record.files:
        Origin.of_url(file.url)
        file.url.encode("ascii")
        assert file.size is None or file.size >= 0


@example(changes=[])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(changes=st.lists(st.tuples(st.integers(0, 400), _VALUES), max_size=3))
def test_any_answer_gives_a_record_or_our_own_error(
    there: tuple[ArchiveServer, str], changes: list[tuple[int, Any]]
) -> None:
    archive, locator = there
    try:
        record = asyncio.run(_record(archive, locator, changes))
    except ReplayError:
        assert changes, "the proper answer is understood"
        return
    _holds_together(record)
