"""What an archive's answer may cost whoever reads it: memory, however it is packed, and time, however often it is looked at."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator

import pytest
import stamina

from replay_build_service.errors import BadLink, OriginRefused, Refused, ReplayError, SourceFault
from tests.archives import server as wrong
from tests.archives.server import Request
from tests.archives.zenodo import ZenodoServer
from tests.integration.record_cases import OLD, Asked, asked

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]


@pytest.fixture
def archive() -> Iterator[ZenodoServer]:
    with ZenodoServer() as running, stamina.set_testing(True, attempts=1):
        yield running


@pytest.fixture
async def here(archive: ZenodoServer) -> AsyncIterator[Asked]:
    async with asked(archive.source(), archive.rules) as found:
        yield found


def packed(body: bytes, encoding: str) -> wrong.Fault:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    return wrong.Fault(wrong.Answer(200, body, headers))


async def test_an_answer_may_be_packed_with_gzip(archive: ZenodoServer, here: Asked) -> None:
    locator = archive.publish(OLD).locators[0]
    plain = await here.resolve(locator)
    here.clock.now += 3600
    proper = archive.answer(Request("GET", archive.requests[0].removeprefix("GET "), {}, b"", {}))
    archive.faults.append(packed(gzip.compress(proper.body), "gzip"))
    assert await here.resolve(locator) == plain
    assert len(archive.requests) == 2


SPACES = b" " * 200_000_000
BOMB = gzip.compress(SPACES, 6)


@pytest.mark.parametrize(
    ("body", "encoding", "told"),
    [
        (BOMB, "gzip", Refused),
        (gzip.compress(BOMB), "gzip, gzip", SourceFault),
        (zlib.compress(SPACES), "deflate", SourceFault),
        (BOMB, "br", SourceFault),
        (BOMB[:1000], "gzip", SourceFault),
        (b"{}", "gzip", SourceFault),
    ],
    ids=["a bomb", "a bomb in a bomb", "another kind", "a kind that is not offered", "cut short", "not packed at all"],
)
async def test_a_packed_answer_is_never_held_unpacked_beyond_what_is_read(
    archive: ZenodoServer, here: Asked, body: bytes, encoding: str, told: type[ReplayError]
) -> None:
    record = archive.publish(OLD)
    archive.faults.append(packed(body, encoding))
    tracemalloc.start()
    try:
        with pytest.raises(told):
            await here.resolve(record.locator)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 50_000_000


@pytest.mark.parametrize("location", ["http://[", "https://ex ample.org:99999/", "https://\x7f/", "//"])
async def test_a_redirect_to_what_is_no_address_is_an_error_of_our_own(
    archive: ZenodoServer, here: Asked, location: str
) -> None:
    record = archive.publish(OLD)
    archive.faults.append(wrong.elsewhere(location))
    with pytest.raises((SourceFault, BadLink, OriginRefused)):
        await here.resolve(record.locator)
