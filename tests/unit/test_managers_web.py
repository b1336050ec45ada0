"""The managers' pages over HTTP: who gets which, and what they may send."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from replay_build_service.domain import (
    LaunchState,
    Server,
    ServerStatus,
)
from replay_build_service.rulings import VORulings
from replay_build_service.web.auth import RateLimit
from replay_build_service.web.manager_routes import manager_routes
from tests.unit.managers_web import (
    ADA,
    BY_NUMBER,
    FORMS,
    HOME,
    LAUNCH,
    MIA,
    NUMBER,
    PAGES,
    ROOT,
    THEO,
    VOS,
    Web,
    below,
    open_web,
)


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    async with open_web(tmp_path, monkeypatch) as opened:
        yield opened


def test_no_address_is_left_out_here() -> None:
    patterns = [route.regex.pattern for route in manager_routes("")]
    for path in (*FORMS, *PAGES, *BY_NUMBER):
        assert any(re.fullmatch(pattern, below(path)) for pattern in patterns), path
    known = [below(path) for path in (*FORMS, *PAGES, *BY_NUMBER)] + ["audit"]
    assert [one for one in patterns if not any(re.fullmatch(one, path) for path in known)] == []


@pytest.mark.parametrize(
    "who", [ADA, THEO, {"X-Person": "boris", "X-Groups": ""}], ids=["member", "manager of B", "stranger"]
)
async def test_only_a_vos_own_managers_see_its_pages_or_send_its_forms(
    web: Web, who: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for path in (*PAGES, *BY_NUMBER):
        answer = await web.get(below(path), who)
        assert (answer.status_code, "You do not manage" in answer.text) == (403, True), path
    for path, fields in FORMS.items():
        answer = await web.post(below(path), who, **fields)
        assert (answer.status_code, "You do not manage" in answer.text) == (403, True), path
        (number,) = re.findall(r"give this number: <code>([0-9a-f]{8})</code>", answer.text)
        assert f"Error {number}: 'POST {HOME}vo/vo.one/{path}' answered 403" in caplog.text
    assert await web.store.rulings_of("vo.one") == VORulings()
    assert await web.store.audit(None, None, 10) == []


async def test_a_vos_managers_and_administrators_see_each_page(web: Web) -> None:
    for who in (MIA, ROOT):
        for path in PAGES:
            answer = await web.get(below(path), who)
            assert answer.status_code == 200, (path, answer.text)
    assert (await web.get(below("", "vo.nowhere"), ROOT)).status_code == 403


async def test_the_log_of_all_vos_is_for_administrators(web: Web) -> None:
    await web.post(below("banner"), MIA, **FORMS["banner"])
    await web.post(below("banner", "vo.two"), THEO, **FORMS["banner"])
    for who in (MIA, THEO, ADA):
        assert (await web.get("audit", who)).status_code == 403
    whole = (await web.get("audit", ROOT)).text
    assert ("mia" in whole, "theo" in whole) == (True, True)
    own = (await web.get(below("audit"), MIA)).text
    assert ("mia" in own, "theo" in own) == (True, False)


async def test_home_leads_managers_to_their_vo_and_administrators_to_all(web: Web) -> None:
    for who, vos, has_audit in ((MIA, ["vo.one"], False), (ADA, [], False), (ROOT, sorted(VOS), True)):
        page = (await web.get("", who)).text
        links = re.findall(r'href="(/services/replay/vo/[^"]*)"', page)
        assert links == [f"{HOME}{below('', vo)}" for vo in vos]
        assert (f'href="{HOME}audit"' in page) == has_audit


async def test_a_manager_cannot_name_another_vo_in_their_own_form(web: Web) -> None:
    """Whatever a form holds, the VO is that of the address."""
    await web.post(below("banner"), MIA, vo="vo.two", **FORMS["banner"])
    assert (await web.store.rulings_of("vo.two")) == VORulings()
    assert (await web.store.rulings_of("vo.one")).banner == "Down on Friday"


async def test_forms_are_limited_in_rate(web: Web) -> None:
    web.site.manage_limit = RateLimit(2, 60)
    answers = [await web.post(below("banner"), MIA, **FORMS["banner"]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [303, 303, 429]
    assert len(await web.store.audit(None, None, 10)) == 2
    web.site.look_limit = RateLimit(1, 60)
    assert [(await web.get(below(""))).status_code for _ in range(2)] == [200, 429]


# what forms do


async def test_each_form_does_what_it_says_and_leads_to_a_page_that_tells_so(web: Web) -> None:
    launch = await web.launched("ada", "vo.one")
    told: list[str] = []
    for path in ("rules", "banner", "terms", "events", "blocks"):
        answer = await web.post(below(path), MIA, **FORMS[path])
        assert answer.status_code == 303, answer.text
        page = await web.get(answer.headers["Location"])
        told += re.findall(r'role="status">([^<]+)<', page.text)[:1]
    assert told == [
        "The rule holds from now on.",
        "The banner is changed.",
        "The terms are changed.",
        "The event is prepared.",
        "This person can launch nothing for the VO from now on, and what they had running for it was stopped.",
    ]
    found = await web.store.rulings_of("vo.one")
    assert (found.denied, found.banner, found.terms and found.terms.text) == (
        ("github.com/owner/name",),
        "Down on Friday",
        "Be kind.",
    )
    assert ([block.user for block in found.blocks], [event.title for event in found.events]) == (["ada"], ["A course"])
    ended = await web.store.get_launch(launch.id)
    assert ended is not None
    assert ended.state is LaunchState.ENDED

    (rule,) = await web.store.repository_rules("vo.one")
    for path, fields in (
        (f"rules/{rule.id}/remove", {}),
        ("blocks/lift", {"person": "ada"}),
        ("banner", {"action": "policy"}),
        ("terms", {"action": "policy"}),
        (f"events/{found.events[0].id}/build", {}),
        (f"events/{found.events[0].id}/call-off", {}),
    ):
        assert (await web.post(below(path), MIA, **fields)).status_code == 303, path
    assert await web.store.rulings_of("vo.one") == VORulings()


async def test_who_blocks_a_name_that_has_launched_nothing_is_told_to_look_at_its_spelling(web: Web) -> None:
    await web.launched("ada", "vo.one", LaunchState.CHOOSING)
    await web.launched("chiara", "vo.two", LaunchState.CHOOSING)
    for person, told in (("Ada", "This person can launch nothing"), ("adda", "spelled"), ("chiara", "spelled")):
        answer = await web.post(below("blocks"), MIA, person=person, reason="mining")
        assert told in (await web.get(answer.headers["Location"])).text, person


async def test_a_block_holds_also_where_what_runs_cannot_be_stopped(web: Web) -> None:
    launch = await web.launched("ada", "vo.one", LaunchState.STARTING)
    web.house.hub.servers["ada", ""] = Server(ServerStatus.STARTING, "/user/ada/", launch.id)
    answer = await web.post(below("blocks"), MIA, **FORMS["blocks"])
    assert answer.status_code == 409
    assert "ada can launch nothing for vo.one from now on" in answer.text
    assert "just starting" in answer.text
    assert [block.user for block in (await web.store.rulings_of("vo.one")).blocks] == ["ada"]


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("rules", {"effect": "raise", "pattern": "github.com/owner/name"}, 400),
        ("rules", {"effect": "deny", "pattern": "github.com"}, 400),
        ("rules", {"effect": "deny", "pattern": "file:///etc/passwd"}, 400),
        ("rules", {"effect": "deny", "pattern": "x" * 600}, 400),
        ("rules", {}, 400),
        ("blocks", {"person": "ada"}, 400),
        ("banner", {"action": "other"}, 400),
        ("banner", {"action": "own", "text": "\u202e"}, 400),
        ("terms", {"action": "own", "text": ""}, 400),
        ("events", {}, 400),
        ("events", {**FORMS["events"], "link": "https://hub.example.org/v2/nowhere/x/y/HEAD"}, 400),
        (f"sessions/{LAUNCH}/stop", {}, 404),
        (f"rules/{NUMBER}/remove", {}, 404),
        ("blocks/lift", {"person": "ada"}, 404),
        (f"events/{NUMBER}/build", {}, 404),
        ("rules/../../../x", {}, 404),
    ],
)
async def test_what_cannot_be_meant_is_told_with_a_number_and_changes_nothing(
    web: Web, path: str, fields: dict[str, str], status: int
) -> None:
    answer = await web.post(below(path), MIA, **fields)
    assert answer.status_code == status, answer.text
    assert "give this number" in answer.text or status == 404
    assert await web.store.audit(None, None, 10) == []


@pytest.mark.parametrize("path", ["usage", "usage.csv", "usage.apel", "usage-gpus.json"])
@pytest.mark.parametrize(
    "query", ["?from=2026", "?from=2026-13", "?from=2026-05&to=2026-01", "?from=2001-01&to=2026-01"]
)
async def test_months_that_cannot_be_meant_are_told(web: Web, path: str, query: str) -> None:
    if path == "usage-gpus.json" and "2026-01" in query:
        return  # it is for one month, the last
    assert (await web.get(f"{below(path)}{query}")).status_code == 400
