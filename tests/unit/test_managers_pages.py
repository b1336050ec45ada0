"""The managers' pages: what they show of a VO and of no other, and that nothing in them is taken for markup."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from replay_build_service.domain import (
    BuildFailure,
    EventKind,
    FailureReason,
    LaunchState,
    NewEvent,
    Phase,
    Server,
    ServerStatus,
    build_stream,
)
from replay_build_service.managing import PAGE, Managing
from tests.unit.core_fakes import a_job_of, ref
from tests.unit.managers_web import (
    ATTACK,
    FORMS,
    HOME,
    HOSTILE,
    MIA,
    NUMBER,
    PAGES,
    PATH_LIKE,
    ROOT,
    THEO,
    Web,
    below,
    open_web,
)


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    async with open_web(tmp_path, monkeypatch) as opened:
        yield opened


async def test_what_somebody_runs_for_another_vo_is_on_no_page(web: Web) -> None:
    await web.launched("chiara", "vo.two", resolved=ref("secret-project"))
    for path in PAGES:
        assert "secret-project" not in (await web.get(below(path))).text, path
        assert "chiara" not in (await web.get(below(path))).text, path
    assert "secret-project" in (await web.get(below("", "vo.two"), THEO)).text


async def test_who_of_another_vo_waited_for_the_same_build_is_not_told(web: Web) -> None:
    job = a_job_of(NUMBER)
    await web.store.join_build(job, "chiara")
    await web.launched("chiara", "vo.two", LaunchState.BUILDING, build_id=job.build_id)
    assert (await web.get(below(f"builds/{NUMBER}"))).status_code == 404, "nobody of this VO waited for it"
    await web.launched("ada", "vo.one", LaunchState.BUILDING, build_id=job.build_id)
    for path in ("builds", f"builds/{NUMBER}"):
        page = (await web.get(below(path))).text
        assert ("ada" in page, "chiara" in page) == (True, False)


async def test_a_failed_build_is_shown_with_its_reason_and_the_end_of_its_log(web: Web) -> None:
    job = a_job_of(NUMBER)
    await web.store.join_build(job, "ada")
    await web.launched("ada", "vo.one", LaunchState.BUILDING, build_id=job.build_id)
    lines = [f"\x1b[31mline {number}\x1b[0m {ATTACK}" for number in range(600)]
    now = datetime.now(UTC)
    await web.store.append_events(
        build_stream(job.build_id), [NewEvent(EventKind.LINE, Phase.BUILDING, line, now) for line in lines]
    )
    failure = BuildFailure(FailureReason.DEPENDENCIES, "Nothing provides six==9.")
    await web.store.finish_build(job.build_id, failure, failure.message)
    listed = (await web.get(below("builds"))).text
    assert "Nothing provides six==9." in listed
    assert f'href="{HOME}{below(f"builds/{NUMBER}")}"' in listed
    page = (await web.get(below(f"builds/{NUMBER}"))).text
    assert ("line 599 " in page, "line 101 " in page, "line 100 " in page) == (True, True, False)
    assert "101 come before" in page
    assert "\x1b" not in page
    assert "<img" not in page.replace('<img src="/services/replay/static/logo.svg"', "")


async def test_a_page_has_a_bound_and_leads_on(web: Web) -> None:
    for number in range(PAGE + 2):
        await web.launched(f"person-{number}", "vo.one", LaunchState.CHOOSING)
    for path in ("", "launches"):
        first = (await web.get(below(path))).text
        (older,) = re.findall(r'href="([^"]*\?before=[0-9a-f]{32}[^"]*)">Older', first)
        second = (await web.get(older)).text
        names = [set(re.findall(r"person=(person-\d+)", page)) for page in (first, second)]
        assert [len(found) for found in names] == [PAGE, 2]
        assert not names[0] & names[1]
    for before in ("x", "0" * 32, "%00", "1;DROP TABLE audit"):
        assert (await web.get(f"{below('launches')}?before={quote(before)}")).status_code == 200


async def test_launches_of_one_person_are_shown_alone(web: Web) -> None:
    for user in ("ada", "boris"):
        await web.launched(user, "vo.one", LaunchState.CHOOSING)
    page = (await web.get(f"{below('launches')}?person=boris")).text
    assert ("boris" in page, "ada" in page) == (True, False)


async def test_usage_leaves_as_files(web: Web) -> None:
    launch = await web.launched("ada", "vo.one", LaunchState.STARTING)
    await web.store.move_launch(launch.id, {LaunchState.STARTING}, LaunchState.RUNNING)
    await web.launched("boris", "vo.two", LaunchState.RUNNING)
    month = f"{datetime.now(UTC):%Y-%m}"
    files = {}
    for path, kind in (
        ("usage.csv", "text/csv"),
        ("usage.apel", "text/plain"),
        ("usage-gpus.json", "application/json"),
    ):
        answer = await web.get(f"{below(path)}?from={month}&to={month}")
        assert answer.headers["Content-Type"].startswith(kind)
        files[path] = (answer.headers["Content-Disposition"], answer.text)
    assert files["usage.csv"][0] == f'attachment; filename="usage-vo.one-{month}.csv"'
    assert f"{month},vo.one,ada,1," in files["usage.csv"][1]
    assert f"VMUUID: {launch.id}\n" in files["usage.apel"][1]
    assert all("boris" not in text for _, text in files.values())
    assert "ada" in (await web.get(below("usage"))).text


async def test_without_a_name_of_the_site_there_are_no_accounting_records_and_the_page_says_so(web: Web) -> None:
    managing = web.site.managing
    web.site.managing = Managing(
        **{name: getattr(managing, name) for name in Managing.__slots__ if name != "accounting_site"}
    )
    for path in ("usage.apel", "usage-gpus.json"):
        answer = await web.get(below(path))
        assert (answer.status_code, "accounting_site" in answer.text) == (409, True)
    page = (await web.get(below("usage"))).text
    assert "usage.apel" not in page
    assert "accounting_site" in page


async def test_the_page_says_what_would_happen_and_which_rule_decides(web: Web) -> None:
    await web.post(below("rules"), MIA, effect="deny", pattern="github.com/owner/*")
    await web.post(below("blocks"), MIA, person="boris", reason="mining")
    question = f"{below('explain')}?person={{}}&link={quote('https://hub.example.org/v2/gh/{}/HEAD?urlpath=lab')}"
    denied = (await web.get(question.replace("{}", "ada", 1).replace("%7B%7D", "Owner/Name"))).text
    assert "It would be refused" in denied
    assert "github.com/owner/*" in denied
    assert "github.com/owner/name" in denied
    blocked = (await web.get(question.replace("{}", "boris", 1).replace("%7B%7D", "other/name"))).text
    assert "mining" in blocked
    passes = (await web.get(question.replace("{}", "ada", 1).replace("%7B%7D", "other/name"))).text
    assert "It would launch" in passes
    assert (await web.get(f"{below('explain')}?person=ada&link=nonsense")).status_code == 400


# nothing is markup


class _Read(HTMLParser):
    """All addresses and forms of a page, and whether it has an element that no page of ours has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in {"href", "action", "src"}:
                self.addresses.append(value or "")
        if tag in {"img", "script"}:
            self.images.append(dict(attrs).get("src") or "inline")


async def filled_with(web: Web, hostile: str, vo: str, who: dict[str, str]) -> list[str]:
    """Everything that managers or people can write, filled with that text; returns all pages that show some of it."""
    job = a_job_of(NUMBER)
    await web.store.join_build(job, hostile)
    await web.launched(hostile, vo, LaunchState.BUILDING, build_id=job.build_id)
    await web.store.append_events(
        build_stream(job.build_id), [NewEvent(EventKind.LINE, Phase.BUILDING, hostile, datetime.now(UTC))]
    )
    await web.store.finish_build(job.build_id, BuildFailure(FailureReason.STEP, hostile), hostile)
    ran = await web.launched(f"{hostile} too", vo, LaunchState.STARTING)
    await web.store.move_launch(ran.id, {LaunchState.STARTING}, LaunchState.RUNNING)
    web.house.hub.servers[f"{hostile} too", ""] = Server(ServerStatus.READY, "/user/x/", ran.id)
    failed = await web.launched(f"{hostile} three", vo, LaunchState.STARTING)
    await web.store.move_launch(failed.id, {LaunchState.STARTING}, LaunchState.FAILED, failure=hostile)
    for path, fields in (
        ("rules", {"effect": "deny", "pattern": "git.example.org/a'b<img>/*", "reason": hostile}),
        ("blocks", {"person": hostile, "reason": hostile}),
        ("banner", {"action": "own", "text": hostile}),
        ("terms", {"action": "own", "text": hostile}),
        ("events", {**FORMS["events"], "title": hostile}),
    ):
        answer = await web.post(below(path, vo), who, **fields)
        assert answer.status_code == 303, answer.text
    (event,) = (await web.store.rulings_of(vo)).events
    queries = {
        "launches": f"?person={quote(hostile)}",
        "rules": f"?block={quote(hostile)}&done={quote(hostile)}",
        "explain": f"?person={quote(hostile)}&link=gh/o/r/HEAD",
    }
    paths = [*PAGES, f"builds/{NUMBER}", f"events/{event.id}"]
    return [*(f"{below(path, vo)}{queries.get(path, '')}" for path in paths if "." not in path), "audit"]


@pytest.mark.parametrize("vo", ["vo.one", PATH_LIKE], ids=["plain", "path-like"])
async def test_nothing_that_somebody_wrote_becomes_markup_or_leads_elsewhere(web: Web, vo: str) -> None:
    who = {**ROOT, "X-Person": "mallory"}
    for address in await filled_with(web, ATTACK, vo, who):
        answer = await web.get(address, who)
        assert answer.status_code == 200, answer.text
        read = _Read(answer.text)
        ours = [source for source in read.images if not source.startswith(f"{HOME}static/")]
        assert (ours, read.handlers) == ([], []), address
        for found in read.addresses:
            is_a_repository = found.startswith(("https://git.example.org/", "https://github.com/o/r"))
            assert found.startswith((HOME, "#", "/hub/home")) or is_a_repository, (address, found)
            assert f"{HOME}vo/../" not in found
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_the_manager_of_a_vo_with_a_path_for_a_name_manages_that_vo_alone(web: Web) -> None:
    page = await web.get(below("", PATH_LIKE), HOSTILE)
    assert page.status_code == 200, page.text
    assert (await web.post(below("banner", PATH_LIKE), HOSTILE, **FORMS["banner"])).status_code == 303
    assert (await web.store.rulings_of(PATH_LIKE)).banner == "Down on Friday"
    assert (await web.get(below(""), HOSTILE)).status_code == 403


async def test_files_of_such_a_vo_have_names_that_a_disk_takes(web: Web) -> None:
    answer = await web.get(below("usage.csv", PATH_LIKE), HOSTILE)
    (name,) = re.findall(r'filename="([^"]*)"$', answer.headers["Content-Disposition"])
    assert re.fullmatch(r"usage-[A-Za-z0-9.-]+\.csv", name)
    assert not name.startswith((".", "usage-."))


async def test_an_event_that_was_stored_shows_links_to_what_was_built_and_to_the_newest(web: Web) -> None:
    answer = await web.post(below("events"), MIA, **FORMS["events"])
    page = (await web.get(answer.headers["Location"])).text
    spec = "git/https%3A%2F%2Fgit.example.org%2Fcourse"
    assert f'value="https://hub.example.org/v2/{spec}/{"a" * 40}"' in page
    assert f'value="https://hub.example.org/v2/{spec}/HEAD"' in page
