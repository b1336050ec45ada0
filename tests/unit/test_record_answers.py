"""No answer of an archive breaks its source: whatever stands in it, there is a record that holds together, or an error of our own.

The stand-ins answer without a network here, and any part of what they say is another value.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from replay_build_service.errors import ReplayError, SourceFault
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import Origin
from replay_build_service.providers.doi import target_by_page
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, split_fetch_url
from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.sources.handles import landing_page
from tests.archives.ckan import CkanServer
from tests.archives.dataverse import DataverseServer
from tests.archives.direct import Direct
from tests.archives.figshare import FigshareServer
from tests.archives.hydroshare import HydroShareServer
from tests.archives.osf import OsfServer
from tests.archives.server import ArchiveServer
from tests.archives.swh import SwhServer
from tests.archives.zenodo import ZenodoServer
from tests.unit.broken_texts import ODD, any_value, changed, check_sentence, how_many, places

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]

FILES = {"index.ipynb": b"{}\n", "table.csv": b"a,b\n1,2\n"}


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


_TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(ODD))
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


def _changed(value: Any, changes: list[tuple[int, Any]]) -> Any:
    for number, replacement in changes:
        ways = list(places(value))
        path = ways[number % len(ways)]
        if not path:
            return copy.deepcopy(replacement)
        inner = value
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = copy.deepcopy(replacement)
    return value


async def _record(archive: ArchiveServer, locator: str, change: Callable[[Any], Any]) -> Record:
    source = archive.source()
    ask = cast("Asker", Direct(archive, change))
    record = await source.find(ask, locator, None)
    found = split_fetch_url(record.fetch_url, {source.name: source})
    assert found is not None
    _holds_together(await source.listed(ask, found[1]))
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
        record = asyncio.run(_record(archive, locator, lambda value: _changed(value, changes)))
    except ReplayError as error:
        assert changes, "the proper answer is understood"
        check_sentence(error.sentence)
        return
    _holds_together(record)


def _otherwise(chance: random.Random) -> Callable[[Any], Any]:
    """What becomes of each answer: mostly the same with something else in it; at times anything, or what is no JSON."""

    def change(value: Any) -> Any:
        kind = chance.random()
        if kind < 0.4:
            return value
        if kind < 0.9:
            return changed(value, chance)
        if kind < 0.95:
            return any_value(chance)
        text = json.dumps(value).encode()
        at = chance.randrange(len(text) + 1)
        return text[:at] + chance.randbytes(chance.randint(0, 3)) + text[at + chance.randint(0, 3) :]

    return change


async def test_many_answers_give_records_or_our_own_errors(there: tuple[ArchiveServer, str]) -> None:
    archive, locator = there
    change = _otherwise(random.Random(7))
    understood = 0
    for _ in range(count := how_many(600)):
        try:
            _holds_together(await _record(archive, locator, change))
        except ReplayError as error:
            check_sentence(error.sentence)
        else:
            understood += 1
    assert count / 50 < understood < count


async def test_where_a_doi_leads_may_be_anything() -> None:
    """doi.org's answer, which holds what the name's owner has registered, on its way to the provider that is asked next."""
    proper = {
        "responseCode": 1,
        "handle": "10.1234/x",
        "values": [{"index": 1, "type": "URL", "data": {"format": "string", "value": "https://zenodo.org/records/1"}}],
    }
    change = _otherwise(random.Random(7))

    class Handles:
        async def json(self, url: str, model: type[BaseModel], **_: Any) -> BaseModel:
            Origin.of_url(url)
            value = change(proper)
            try:
                return model.model_validate_json(value if isinstance(value, bytes) else json.dumps(value))
            except ValidationError as error:
                raise SourceFault("It was not understood.") from error

    led = 0
    for _ in range(count := how_many(2_000)):
        try:
            page = await landing_page(cast("Asker", Handles()), "10.1234/x")
            target = target_by_page(page, "10.1234/x", Dataverse(), lambda _: True)
        except ReplayError as error:
            check_sentence(error.sentence)
            continue
        led += target is not None
    assert count / 50 < led < count
