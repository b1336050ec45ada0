"""What Onezone is asked and what becomes of its answers, against the stand-in for the DataHub: well, and failing in every way."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.certificates import certificate_with_key
from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint as CheckinEndpoint
from demo.onezone import OnezoneStandIn
from demo.onezone_controls import ELSEWHERE, Endpoint, Failing, Fault, Space
from demo.people import ADA, CHIARA
from replay_spawner.features.base import Unavailable
from replay_spawner.features.datahub import onezone
from replay_spawner.features.datahub.names import Space as FoundSpace
from replay_spawner.features.datahub.onezone import AT_ONCE, Limits, Onezone

pytestmark = pytest.mark.one_hub_version

QUICK = Limits(request=0.3, conversation=1.5)
REST = {"type": "interface", "interface": "rest"}
READ_ONLY = {"type": "data.readonly"}


@pytest.fixture(scope="module")
def checkin() -> Iterator[CheckinStandIn]:
    with CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=["http://127.0.0.1/x"]) as checkin:
        yield checkin


@pytest.fixture
def datahub(checkin: CheckinStandIn) -> Iterator[OnezoneStandIn]:
    Onezone._known_providers.clear()
    with OnezoneStandIn(userinfo_url=checkin.url_of(CheckinEndpoint.USERINFO), provider_port=0) as datahub:
        yield datahub


@asynccontextmanager
async def asking(datahub: OnezoneStandIn, token: str, limits: Limits = QUICK) -> AsyncIterator[Onezone]:
    async with Onezone(datahub.url, datahub.provider, token, limits=limits) as onezone:
        yield onezone


@pytest.fixture
def ada(checkin: CheckinStandIn) -> str:
    return checkin.give_access_token(ADA)


def files(datahub: OnezoneStandIn, token: str) -> httpx.Client:
    scheme = datahub.url.partition("://")[0]
    return httpx.Client(
        base_url=f"{scheme}://{datahub.provider}/api/v3/oneprovider", headers={"X-Auth-Token": token}, trust_env=False
    )


# well


async def test_the_spaces_are_those_that_the_provider_supports(datahub: OnezoneStandIn, ada: str) -> None:
    async with asking(datahub, ada) as onezone:
        found = await onezone.found(10)
    assert [space.name for space in found.local] == ["Plankton survey", "Shared results"]
    assert (found.local_count, found.not_named, found.elsewhere, found.is_online) == (2, [], 1, True)


@pytest.mark.parametrize(
    "spaces", [[], [Space("5", "far", providers=(ELSEWHERE,))], [Space("5", "nowhere", providers=())]]
)
async def test_no_space_here_is_a_fact(datahub: OnezoneStandIn, ada: str, spaces: list[Space]) -> None:
    datahub.controls.set_spaces(spaces)
    async with asking(datahub, ada) as onezone:
        found = await onezone.found(10)
    assert (found.local, found.local_count, found.elsewhere) == ((), 0, len(spaces))


async def test_names_are_taken_as_they_are(datahub: OnezoneStandIn, ada: str) -> None:
    names = ["a/b", 'it\'s "so"', "🐋", "Same", "Same", "../..", "new\nline"]
    datahub.controls.set_spaces([Space(f"s{number}", name) for number, name in enumerate(names)])
    async with asking(datahub, ada) as onezone:
        found = await onezone.found(10)
    assert {(space.id, space.name) for space in found.local} == {
        (f"s{number}", name) for number, name in enumerate(names)
    }


async def test_of_ten_thousand_spaces_so_many_are_named_and_few_at_once(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.controls.set_spaces([Space(f"s{number:05}", f"Space {number:05}") for number in range(10_000)])
    async with asking(datahub, ada, Limits(request=10, conversation=30)) as onezone:
        found = await onezone.found(40)
    assert (len(found.local), found.local_count, found.elsewhere) == (40, 10_000, 0)
    assert datahub.controls.requests[Endpoint.SPACE] == 40
    assert 1 < datahub.controls.most_at_once <= AT_ONCE


async def test_what_onezone_knows_of_the_provider_is_told(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.controls.provider_is_online = False
    async with asking(datahub, ada) as onezone:
        found = await onezone.found(10)
    assert (found.is_online, found.local_count) == (False, 2)


async def test_a_provider_that_is_gone_is_known_by_its_host(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.refuse(provider_only=True)
    async with asking(datahub, ada) as onezone:
        assert (await onezone.found(10)).local_count == 2


async def test_a_provider_that_nobody_knows_is_no_fact_about_spaces(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.refuse(provider_only=True)
    datahub.controls.set_spaces([Space("5", "far", providers=(ELSEWHERE,))])
    async with asking(datahub, ada) as onezone:
        with pytest.raises(Unavailable, match="does not answer as it should"):
            await onezone.found(10)


# tokens


async def test_a_token_holds_within_its_caveats(datahub: OnezoneStandIn, ada: str) -> None:
    async with asking(datahub, ada) as onezone:
        before = time.time()
        token = await onezone.token([REST], seconds=600)
        read_only = await onezone.token([REST, READ_ONLY], seconds=600)
        mounting = await onezone.token([{"type": "interface", "interface": "oneclient"}], seconds=600)
        short = await onezone.token([REST], seconds=2)
    assert before + 600 <= token.expires_at <= time.time() + 600
    assert token.value not in repr(token)
    space = "/data/5ace0000000000000000000000000001"
    with files(datahub, token.value) as http:
        assert http.get(f"{space}/children").json()["children"][0]["name"] == "2025"
        assert http.put(f"{space}/path/new.txt").status_code == 201
    with files(datahub, read_only.value) as http:
        assert http.get(f"{space}/children").status_code == 200
        assert http.put(f"{space}/path/newer.txt").status_code == 401
    with files(datahub, mounting.value) as http:
        assert http.get(f"{space}/children").status_code == 401
    with files(datahub, short.value) as http:
        deadline = time.monotonic() + 10
        while http.get(f"{space}/children").status_code == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert http.get(f"{space}/children").json()["error"]["description"] == "The token has expired."


@pytest.mark.parametrize("ahead", [-7200, 7200])
async def test_clocks_that_are_apart_do_not_matter(
    datahub: OnezoneStandIn, ada: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    class Ours:
        def time(self) -> float:
            return time.time() + ahead

    monkeypatch.setattr(onezone, "time", Ours())
    async with asking(datahub, ada) as conversation:
        token = await conversation.token([REST], seconds=600)
    bearer = datahub.tokens.bearer(token.value)
    assert bearer.valid_until is not None
    # By Onezone's clock; what is told the hub is by the hub's.
    assert 590 < bearer.valid_until - time.time() < 610
    assert 590 < token.expires_at - (time.time() + ahead) < 610


async def test_a_life_that_onezone_does_not_allow_is_told(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.controls.longest_token_seconds = 60
    async with asking(datahub, ada) as onezone:
        with pytest.raises(Unavailable, match="The DataHub refused what it was asked"):
            await onezone.token([REST], seconds=600)


async def test_a_token_that_no_secret_would_hold_is_none(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.controls.token_bytes = 1_000_000
    async with asking(datahub, ada, Limits(request=5, conversation=20)) as onezone:
        with pytest.raises(Unavailable, match="does not answer as it should"):
            await onezone.token([REST], seconds=600)


async def test_a_login_that_the_datahub_does_not_know_is_told(datahub: OnezoneStandIn) -> None:
    async with asking(datahub, "made-up") as onezone:
        with pytest.raises(Unavailable, match="The DataHub does not accept this login"):
            await onezone.found(10)
    assert datahub.controls.requests[Endpoint.EFFECTIVE_SPACES] == 1


async def test_everybody_has_their_own_spaces(datahub: OnezoneStandIn, checkin: CheckinStandIn, ada: str) -> None:
    chiara = checkin.give_access_token(CHIARA)
    subject = datahub.tokens.bearer(f"egi:{chiara}").person
    datahub.controls.set_spaces([Space("only1", "Only Chiara's")], person=subject)
    async with asking(datahub, chiara) as onezone:
        assert [space.name for space in (await onezone.found(10)).local] == ["Only Chiara's"]
    async with asking(datahub, ada) as onezone:
        assert len((await onezone.found(10)).local) == 2


# failing

FAULTS: list[Fault] = [500, 502, 503, 429, *(one for one in Failing)]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_whatever_onezone_does_is_no_fact_and_takes_no_longer_than_it_may(
    datahub: OnezoneStandIn, ada: str, fault: Fault
) -> None:
    datahub.controls.fail(fault)
    began = time.monotonic()
    async with asking(datahub, ada) as onezone:
        with pytest.raises(Unavailable) as told:
            await onezone.found(10)
    assert time.monotonic() - began < QUICK.conversation + 1
    assert not told.value.is_final
    assert "DataHub" in str(told.value)
    assert ada not in f"{told.value!r} {told.value.__cause__!r}"


@pytest.mark.parametrize("fault", [500, Failing.HTML, Failing.DISCONNECT, Failing.HANG, Failing.NOT_JSON], ids=str)
async def test_a_fault_that_passes_is_not_noticed(datahub: OnezoneStandIn, ada: str, fault: Fault) -> None:
    datahub.controls.fail(fault, Endpoint.EFFECTIVE_SPACES, Endpoint.TEMPORARY_TOKEN, times=1)
    async with asking(datahub, ada, Limits(request=0.4, conversation=20)) as onezone:
        assert (await onezone.found(10)).local_count == 2
        assert (await onezone.token([REST], seconds=600)).value


async def test_a_refused_connection_is_no_fact(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.refuse()
    async with asking(datahub, ada) as onezone:
        with pytest.raises(Unavailable, match="does not answer as it should"):
            await onezone.found(10)
    datahub.start()
    async with asking(datahub, ada) as onezone:
        assert (await onezone.found(10)).local_count == 2


async def test_one_space_without_a_name_does_not_take_the_others_away(datahub: OnezoneStandIn, ada: str) -> None:
    datahub.controls.set_spaces([Space("s1", "One"), Space("s2", "x" * 300), Space("s3", "Three")])
    async with asking(datahub, ada) as onezone:
        found = await onezone.found(10)
    assert found.local == [FoundSpace("s1", "One"), FoundSpace("s3", "Three")]
    assert (found.local_count, found.not_named) == (3, ["s2"])


async def test_a_token_goes_to_no_other_host(
    datahub: OnezoneStandIn, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []

    async def note(request: httpx.Request) -> None:
        hosts.append(request.url.host)

    datahub.controls.fail(Failing.REDIRECT, Endpoint.EFFECTIVE_SPACES)
    async with asking(datahub, ada) as onezone:
        onezone._http.event_hooks["request"].append(note)
        with pytest.raises(Unavailable):
            await onezone.found(10)
    assert set(hosts) == {"127.0.0.1"}


# by TLS, as onedatarestfsspec speaks it


async def test_a_sites_own_certificate_is_known_by_its_file(checkin: CheckinStandIn, ada: str, tmp_path: Path) -> None:
    both, alone = certificate_with_key(tmp_path)
    userinfo = checkin.url_of(CheckinEndpoint.USERINFO)
    with OnezoneStandIn(userinfo_url=userinfo, certificate=both) as datahub:
        arguments: dict[str, Any] = {"limits": QUICK}
        async with Onezone(datahub.url, datahub.provider, ada, **arguments) as unknown:
            with pytest.raises(Unavailable):
                await unknown.found(10)
        async with Onezone(datahub.url, datahub.provider, ada, ca_file=str(alone), **arguments) as known:
            assert (await known.found(10)).local_count == 2
    with pytest.raises(Unavailable, match="settings for it are not usable"):
        async with Onezone(datahub.url, datahub.provider, ada, ca_file=str(tmp_path / "none.pem"), **arguments):
            pass


def test_the_stand_in_writes_and_lists_in_pages(datahub: OnezoneStandIn, ada: str) -> None:
    space = Space("s1", "One", files={f"f{number}": b"x" for number in range(5)})
    datahub.controls.set_spaces([space])
    with files(datahub, f"egi:{ada}") as http:
        page = http.get("/data/s1/children", params={"limit": 3}).json()
        assert (len(page["children"]), page["isLast"]) == (3, False)
        rest = http.get("/data/s1/children", params={"limit": 3, "token": page["nextPageToken"]}).json()
        assert ([one["name"] for one in rest["children"]], rest["isLast"]) == (["f3", "f4"], True)
        file_id = http.post("/lookup-file-id/One/f1").json()["fileId"]
        assert http.put(f"/data/{file_id}/content", content=b"new").status_code == 204
        assert http.get(f"/data/{file_id}/content", headers={"Range": "bytes=1-2"}).content == b"ew"
        missing = http.post("/lookup-file-id/One/none")
        assert (missing.status_code, "enoent" in json.dumps(missing.json())) == (400, True)
