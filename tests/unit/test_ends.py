"""Why a session ended that nobody stopped: the sentence, its way to the service, what stays on record, and what the hub tells."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from replay_build_service.client import ReplayClient, ServiceUnavailable
from replay_build_service.db import Store
from replay_build_service.domain import Launch, LaunchId, LaunchState, Person, launch_stream
from replay_build_service.errors import Conflict, NotFound
from replay_build_service.hub import HubClient
from replay_build_service.schemas import MOST_REASON, EndedReport, FeatureReport, ResourcesModel, SessionReport
from replay_build_service.web import make_application
from replay_build_service.wishes import Wish
from replay_spawner import ends, session_report
from replay_spawner.ends import Ends, by_status, out_of_memory, vanished
from replay_spawner.kube.reasons import why_it_died
from replay_spawner.kube.states import PodState, pod_state
from replay_spawner.session_report import report_of
from replay_spawner.usage import Usage, UsageSource
from tests.unit.core_fakes import House, a_house, image

GIB = 1024**3
ADA = Person("ada", frozenset({"vo.one"}))
LAUNCH = "1f" * 16
TOKEN = "a" * 64

# the sentence


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (by_status(137, was_out_of_memory=True, limit=4 * GIB), "ran out of memory, so it was ended: it may use at most 4 GB. What"),
        (by_status(137, was_out_of_memory=True), "ran out of memory, so it was ended. What"),
        (by_status(137), "was killed, as happens where the machine itself runs out of memory"),
        # Only another process of it was: engines say it in the same way.
        (by_status(1, was_out_of_memory=True, limit=GIB), "ended by itself, with status 1"),
        (vanished("pod"), "The session's pod was removed, and not by this hub"),
    ],
)  # fmt: skip
def test_a_person_is_told_why_and_what_to_do(told: str | None, said: str) -> None:
    assert told is not None
    assert said in told
    assert "You can launch the same again." in told
    assert len(told) < MOST_REASON


def test_who_runs_out_of_memory_is_told_what_helps() -> None:
    assert "Load less data at once, or ask a manager of your virtual organisation for more" in out_of_memory(GIB)


def test_who_shuts_a_server_down_from_inside_is_told_nothing() -> None:
    assert by_status(0, was_out_of_memory=True, limit=GIB) is None


def pod(phase: str = "Running", **more: Any) -> PodState:
    """A pod as the API tells of it, whose server has started."""
    terminated = more.pop("terminated", None)
    deleted = {"deletionTimestamp": "2026-11-26T09:00:00Z"} if more.pop("is_going", False) else {}
    status: dict[str, Any] = {"phase": phase, **more}
    if terminated is not None:
        status["containerStatuses"] = [{"name": "notebook", "state": {"terminated": terminated}}]
    return pod_state({"metadata": {"uid": "1", **deleted}, "status": status})


def disruption(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason}]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (pod("Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), "ran out of memory, so it was ended: it may use at most 4 GB"),
        (pod("Failed", terminated={"exitCode": 1, "reason": "OOMKilled"}), "ended by itself, with status 1"),
        (pod("Failed", terminated={"exitCode": 3, "reason": "Error"}), "ended by itself, with status 3"),
        (pod("Succeeded", terminated={"exitCode": 0, "reason": "Completed"}), None),
        (pod("Failed", reason="Evicted", message="The node was low on resource: memory."), "ran short of memory and ended it. What"),
        (pod("Failed", reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit"), "used more disk than it may"),
        (pod("Failed", conditions=disruption("DeletionByTaintManager")), "being taken out of service. What was not saved"),
        (pod("Failed", conditions=disruption("PreemptionByScheduler")), "had to make room for something more urgent. What"),
        (pod("Failed"), "The session's pod was removed"),
        (pod("Failed", is_going=True, terminated={"exitCode": 137, "reason": "Error"}), "The session's pod was removed"),
        (pod("Succeeded", is_going=True, terminated={"exitCode": 0, "reason": "Completed"}), "The session's pod was removed"),
        (pod("Failed", is_going=True, terminated={"exitCode": 137, "reason": "OOMKilled"}), "ran out of memory"),
    ],
)  # fmt: skip
def test_the_end_of_a_pod_is_told(state: PodState, said: str | None) -> None:
    told = why_it_died(state, 4 * GIB)
    assert (said is None and told is None) or (said is not None and told is not None and said in told)
    assert told is None or "while it started" not in told
    assert told is None or "Open the link again" not in told


# its way to the service


class Service:
    """The service's client; does not answer the first few times."""

    def __init__(self, faults: int) -> None:
        self.faults = faults
        self.told: list[EndedReport] = []
        self.knows = asyncio.Event()

    async def ended(self, report: EndedReport) -> None:
        if self.faults:
            self.faults -= 1
            raise ServiceUnavailable("it does not answer")
        self.told.append(report)
        self.knows.set()


async def test_an_end_is_told_once_also_where_the_service_does_not_answer_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ends, "WAITS", (0.0,) * 3)
    service: Any = Service(faults=3)
    told = Ends()
    for _ in range(5):
        told.tell(service, LAUNCH, "It ended.")
    async with asyncio.timeout(10):
        await service.knows.wait()
    told.tell(service, LAUNCH, "It ended.")
    await asyncio.sleep(0)
    assert service.told == [EndedReport(launch=LAUNCH, reason="It ended.")]


async def test_what_nobody_can_be_told_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ends, "WAITS", (0.0,))
    service: Any = Service(faults=99)
    told = Ends()
    told.tell(service, LAUNCH, "It ended.")
    await asyncio.gather(*told._tasks)
    assert f"Nobody could be told why launch {LAUNCH} ended" in caplog.text


# the service's record of it


async def running(house: House) -> Launch:
    launch = await house.launches.create(ADA, Wish("git/https%3A%2F%2Fgit.example.org%2Fhello/HEAD", "vo.one"))
    (await house.builder.next()).end(image())
    await house.texts(launch_stream(launch.id))
    return await now(house, launch.id)


async def now(house: House, launch: LaunchId) -> Launch:
    found = await house.store.get_launch(launch)
    assert found is not None
    return found


async def test_a_session_that_runs_has_ended_and_the_first_reason_stays(store: Store) -> None:
    async with a_house(store) as house:
        launch = await running(house)
        await house.launches.lifetimes.ended_by_itself(launch.id, "Its memory ran out.")
        ended = await now(house, launch.id)
        assert (ended.state, ended.failure) == (LaunchState.ENDED, "Its memory ran out.")
        await house.launches.lifetimes.ended_by_itself(launch.id, "Another.")
        assert await now(house, launch.id) == ended


async def test_a_reason_may_come_after_the_hub_has_said_that_the_session_is_over(store: Store) -> None:
    async with a_house(store) as house:
        launch = await running(house)
        house.hub.servers.clear()
        assert await house.launches.standing(ADA) == (None, await house.hub.server("ada", ""))
        assert (await now(house, launch.id)).failure is None
        await house.launches.lifetimes.ended_by_itself(launch.id, "Its memory ran out.")
        assert (await now(house, launch.id)).failure == "Its memory ran out."


async def test_what_does_not_run_yet_and_what_failed_has_not_ended(store: Store) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, Wish("git/https%3A%2F%2Fgit.example.org%2Fhello/HEAD", "vo.one"))
        with pytest.raises(Conflict):
            await house.launches.lifetimes.ended_by_itself(launch.id, "Why.")
        await house.store.move_launch(launch.id, {LaunchState.BUILDING}, LaunchState.FAILED, failure="It failed.")
        await house.launches.lifetimes.ended_by_itself(launch.id, "Why.")
        failed = await now(house, launch.id)
        assert (failed.state, failed.failure) == (LaunchState.FAILED, "It failed.")
        with pytest.raises(NotFound):
            await house.launches.lifetimes.ended_by_itself(LaunchId("0" * 32), "Why.")


async def test_the_spawner_tells_it_through_a_door_of_its_own(store: Store, tmp_path: Path) -> None:
    async with a_house(store) as house:
        launch = await running(house)
        site: Any = SimpleNamespace(base_url="/services/replay/", internal_token=TOKEN, launches=house.launches)
        server = HTTPServer(make_application(site, b"secret"))
        socket, port = bind_unused_port()
        server.add_socket(socket)
        url = f"http://127.0.0.1:{port}/services/replay/"
        (tmp_path / "token").write_text(TOKEN)
        client = ReplayClient(url, tmp_path / "token")
        try:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as stranger:
                answers = [
                    await stranger.post("internal/ended", json={"launch": launch.id, "reason": "Why."}, headers=headers)
                    for headers in ({}, {"Authorization": "Bearer " + "b" * 64})
                ]
                assert {answer.status_code for answer in answers} == {401}
                known = {"Authorization": f"Bearer {TOKEN}"}
                for body in ({"launch": launch.id, "reason": ""}, {"launch": launch.id}, {"launch": 1, "reason": "x"}):
                    answer = await stranger.post("internal/ended", json=body, headers=known)
                    assert answer.status_code == 400
            assert (await now(house, launch.id)).state is LaunchState.RUNNING
            await client.ended(EndedReport(launch=LAUNCH, reason="Of a launch that nobody knows."))
            await client.ended(EndedReport(launch=launch.id, reason="Its memory ran out."))
            assert (await now(house, launch.id)).failure == "Its memory ran out."
            house.hub.servers.clear()
            other = await house.launches.create(ADA, Wish("git/https%3A%2F%2Fgit.example.org%2Fother/HEAD", "vo.one"))
            with pytest.raises(ServiceUnavailable, match="answered 409"):
                await client.ended(EndedReport(launch=other.id, reason="It only starts."))
        finally:
            await client._client.aclose()
            server.stop()
            await server.close_all_connections()


# what the hub tells of a session that runs


class Spawner:
    """As the report sees one."""

    def __init__(self, launch: str | None = LAUNCH, *, ready: bool = True) -> None:
        self.session_launch, self.ready = launch, ready
        self.resources = ResourcesModel(memory_limit=4 * GIB)
        self.log = SimpleNamespace(exception=lambda *_: None)
        self.asked = 0
        self.answer: Usage | Exception | None = Usage(UsageSource.ENGINE, GIB, 4 * GIB, 0.5, 2.0, 1)

    async def usage(self) -> Usage | None:
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def feature_reports(self) -> list[FeatureReport]:
        return [FeatureReport(name="token", title="A token", state="given")]


async def test_many_who_ask_at_once_share_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    spawner: Any = Spawner()
    reports = await asyncio.gather(*(report_of(spawner) for _ in range(20)))
    assert spawner.asked == 1
    (report,) = {one.model_dump_json() for one in reports if one is not None}
    told = json.loads(report)
    assert told["usage"] == {
        "source": "engine", "memory_used": GIB, "memory_limit": 4 * GIB, "cpu_used": 0.5, "cpu_limit": 2.0, "oom_kills": 1,
    }  # fmt: skip
    assert [one["name"] for one in told["features"]] == ["token"]
    spawner.session_launch = "2e" * 16
    await report_of(spawner)
    assert spawner.asked == 2, "another session's figures are its own"
    monkeypatch.setattr(session_report, "REST_SECONDS", 0.0)
    await report_of(spawner)
    assert spawner.asked == 3


async def test_figures_that_break_hide_nothing_else() -> None:
    spawner: Any = Spawner()
    spawner.answer = ValueError("not what an engine says")
    report = await report_of(spawner)
    assert report is not None
    assert (report.usage, report.resources, len(report.features)) == (None, spawner.resources, 1)


@pytest.mark.parametrize("spawner", [Spawner(None), Spawner(ready=False)], ids=["ordinary", "starting"])
async def test_of_what_is_no_running_session_nothing_is_reported(spawner: Any) -> None:
    assert await report_of(spawner) is None


REPORT = SessionReport(launch=LAUNCH)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(200, content=REPORT.model_dump_json()), REPORT),
        (httpx.Response(404), None),
        (httpx.Response(403), None),
        (httpx.Response(500), None),
        (httpx.Response(200, text="<html>"), None),
        (httpx.Response(200, json={"launch": LAUNCH, "new": "field"}), None),
        (httpx.ConnectError("refused"), None),
    ],
    ids=["told", "none", "not-allowed", "fault", "page", "another-version", "away"],
)
async def test_a_hub_that_does_not_tell_raises_nothing(answer: Any, told: SessionReport | None) -> None:
    asked: list[bytes] = []

    def answered(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with HubClient("http://hub/hub/api", "token", transport=httpx.MockTransport(answered)) as hub:
        assert await hub.session_report("ada@x") == told
        assert await hub.session_report("../../admin") is None
    assert asked == [b"/hub/api/replay/sessions/ada%40x"], "asked once, and for no other address"


async def test_a_hub_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr("replay_build_service.hub.REPORT_SECONDS", 0.01)
    async with HubClient("http://hub/hub/api", "token", transport=httpx.MockTransport(never)) as hub:
        async with asyncio.timeout(10):
            assert await hub.session_report("ada") is None
