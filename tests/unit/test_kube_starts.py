"""From a plan to a server that answers, and back: with an API that misbehaves as real ones do, and a server that answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from replay_spawner.kube import cluster, following, leftovers
from replay_spawner.kube.reasons import ClusterSilent
from tests.unit.kube_api import (
    NAME,
    NAMESPACE,
    PODS,
    RUNNING,
    Api,
    api,
    asked_spawner,
    sentence,
    server,
    starting,
    steps,
    until,
)
from tests.unit.kube_cases import Spawner, no_cluster
from tests.unit.launch_plans import LAUNCH

__all__ = ["api", "no_cluster"]

pytestmark = pytest.mark.usefixtures(no_cluster.__name__)

NOT_FOUND = 'rpc error: failed to resolve reference "x": x@sha256:0: not found'
AWAY = "rpc error: dial tcp 10.0.0.1:5000: connect: connection refused"


async def test_a_start_ends_when_the_server_answers_and_not_before(api: Api) -> None:
    async with server() as port:
        spawner = await asked_spawner(api, port)
        async with starting(spawner, api) as start:
            assert await spawner.poll() is None
            await api.tell("Pulling", "Pulling image")
            await api.tell("Pulled", 'Successfully pulled image "x" in 2s. Image size: 1048576 bytes.')
            await api.tell("Created", "Created container")
            await asyncio.sleep(0.4)
            assert not start.done()
            await api.becomes(RUNNING, "Running")
            async with asyncio.timeout(2):
                assert await start == f"http://127.0.0.1:{port}"
        assert steps(spawner) == [
            "Asking the cluster for a place",
            "Fetching the image",
            "Starting the container",
            "Waiting for the server",
        ]
        assert await spawner.poll() is None
        assert spawner.get_state()["replay_launch"] == LAUNCH
        await spawner.stop()
        assert api.pod is None


async def test_what_the_admins_hook_makes_is_made_before_the_start_ends(api: Api) -> None:
    made: list[str] = []

    async def hook(spawner: Any, pod: dict[str, Any]) -> None:
        await asyncio.sleep(0.5)
        made.append(pod["metadata"]["uid"])

    async with server() as port:
        spawner = await asked_spawner(api, port, after_pod_created_hook=hook)
        async with starting(spawner, api) as start:
            await api.becomes(RUNNING, "Running")
            await start
        assert api.pod is not None
        assert made == [api.pod["metadata"]["uid"]]


async def test_a_hook_that_fails_leaves_no_pod(api: Api) -> None:
    def hook(spawner: Any, pod: dict[str, Any]) -> None:
        raise ValueError("of the admin's")

    async with starting(await asked_spawner(api, after_pod_created_hook=hook), api) as start:
        assert f"the launch's number, {LAUNCH}." in await sentence(start)
    assert api.pod is None


# the API while the pod is made


@pytest.mark.parametrize(
    "fault",
    [(500, "InternalError", "etcdserver: leader changed"), (429, "TooManyRequests", "later"), ConnectionResetError()],
    ids=["500", "429", "reset"],
)
async def test_an_api_that_does_not_answer_is_asked_again(api: Api, fault: Any) -> None:
    api.faults["create"] = [fault, fault]
    async with server() as port, starting(await asked_spawner(api, port), api) as start:
        await api.becomes(RUNNING, "Running")
        assert await start
    assert api.seen.count("create") == 3


async def test_a_pod_whose_making_was_answered_otherwise_is_taken_and_no_second_one_made(api: Api) -> None:
    api.faults["create"] = [504]
    async with server() as port, starting(await asked_spawner(api, port), api) as start:
        assert api.pod is not None
        uid = api.pod["metadata"]["uid"]
        await until(lambda: api.seen.count("create") == 2, "it is asked again")
        await api.becomes(RUNNING, "Running")
        await start
        assert api.pod["metadata"]["uid"] == uid
    assert "delete" not in api.seen


async def test_an_earlier_pod_in_its_place_has_to_go_first(api: Api) -> None:
    earlier = {"metadata": {"name": NAME, "namespace": NAMESPACE, "uid": "old", "resourceVersion": "1", "labels": {"replay.egi.eu/launch": "0" * 32}}}  # fmt: skip
    api.objects[PODS, NAMESPACE, NAME] = earlier
    async with server() as port:
        spawner = await asked_spawner(api, port)
        async with starting(spawner, api) as start:
            await until(lambda: api.pod is not None and api.pod["metadata"]["uid"] != "old", "it is another one")
            await api.becomes(RUNNING, "Running")
            await start


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (403, 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5', "no room for another session now (sessions: 5 of 5 used)"),
        (403, 'pods is forbidden: User "hub" cannot create resource "pods"', "does not let this hub start sessions"),
        (422, "Pod is invalid", "The cluster refused the session: Pod is invalid"),
    ],
)  # fmt: skip
async def test_a_refusal_ends_the_start_at_once(api: Api, status: int, message: str, said: str) -> None:
    api.faults["create"] = [(status, "x", message)]
    spawner = await asked_spawner(api)
    assert said in await sentence(asyncio.create_task(spawner.start()))
    assert api.seen.count("create") == 1
    assert api.pod is None


async def test_an_api_that_stays_away_is_told(api: Api) -> None:
    api.faults["create"] = [(500, "x", "etcd is full")] * 100
    spawner = await asked_spawner(api, k8s_api_request_retry_timeout=1)
    assert "The cluster does not answer" in await sentence(asyncio.create_task(spawner.start()))


async def test_a_pod_that_comes_after_the_start_was_given_up_is_removed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "AGAIN_SECONDS", 0.1)
    answers = asyncio.Event()
    api.faults["create"] = [answers]
    start = asyncio.create_task((await asked_spawner(api)).start())
    await until(lambda: "create" in api.seen, "it is asked for")
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    answers.set()
    await until(lambda: api.pod is not None, "it comes")
    await until(lambda: api.pod is None, "it is removed")


async def test_no_start_makes_two_pods_where_the_api_is_slow(api: Api) -> None:
    answers = asyncio.Event()
    api.faults["create"] = [answers]
    async with server() as port:
        spawner = await asked_spawner(api, port, k8s_api_request_timeout=1)
        start = asyncio.create_task(spawner.start())
        await asyncio.sleep(1.5)
        answers.set()
        await until(lambda: api.pod is not None, "it comes")
        await api.becomes(RUNNING, "Running")
        await start
    assert api.seen.count("create") == 1


# what becomes of the pod


async def test_an_image_that_is_gone_ends_the_start_at_once(api: Api) -> None:
    async with starting(await asked_spawner(api), api) as start:
        await api.becomes({"waiting": {"reason": "ErrImagePull", "message": NOT_FOUND}})
        async with asyncio.timeout(2):
            assert "damaged or gone in the registry" in await sentence(start)
    assert api.pod is None


async def test_why_an_image_did_not_come_is_known_by_the_event_too(api: Api) -> None:
    """The status may be that of a moment later, which does not say it."""
    async with starting(await asked_spawner(api), api) as start:
        await api.tell("Failed", f'Failed to pull image "x": {NOT_FOUND}')
        await asyncio.sleep(0.5)
        await api.becomes({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
        assert "damaged or gone in the registry" in await sentence(start)


async def test_a_registry_may_answer_at_the_second_try(api: Api) -> None:
    async with server() as port:
        spawner = await asked_spawner(api, port)
        async with starting(spawner, api) as start:
            await api.becomes({"waiting": {"reason": "ErrImagePull", "message": AWAY}})
            await until(lambda: any("Trying again" in step for step in steps(spawner)), "that is told")
            await api.becomes({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}})
            await asyncio.sleep(0.2)
            await api.becomes(RUNNING, "Running")
            assert await start


async def test_a_registry_that_stays_away_ends_the_start(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.5)
    async with starting(await asked_spawner(api), api) as start:
        await api.becomes({"waiting": {"reason": "ErrImagePull", "message": AWAY}})
        assert "could not be fetched from the registry. Try again" in await sentence(start)


async def test_a_session_that_ends_is_told_with_its_last_words(api: Api) -> None:
    api[f"get /api/v1/namespaces/{NAMESPACE}/pods/{NAME}/log"] << b"Traceback\n\x1b[31mValueError: broken\n"
    async with starting(await asked_spawner(api), api) as start:
        await api.becomes({"terminated": {"exitCode": 3, "reason": "Error"}}, "Failed")
        assert (await sentence(start)).endswith("ended at once, with status 3: ValueError: broken")
    assert api.pod is None


async def test_a_hub_that_may_not_read_logs_says_so(api: Api) -> None:
    api.faults["log"] = [(403, "Forbidden", "cannot get resource pods/log")]
    async with starting(await asked_spawner(api), api) as start:
        await api.becomes({"terminated": {"exitCode": 3, "reason": "Error"}}, "Failed")
        assert (await sentence(start)).endswith("with status 3: (the hub could not read it)")


async def test_a_hook_in_the_container_that_fails_is_told(api: Api) -> None:
    hooks = {"postStart": {"exec": {"command": ["x"]}}}
    async with starting(await asked_spawner(api, lifecycle_hooks=hooks), api) as start:
        await api.becomes({"terminated": {"exitCode": 137, "reason": "Error"}}, "Failed")
        await api.tell("FailedPostStartHook", "x")
        assert "postStart hook) failed in this image" in await sentence(start)


async def test_a_pod_that_is_removed_meanwhile_is_told(api: Api) -> None:
    async with starting(await asked_spawner(api), api) as start:
        await api.becomes({"waiting": {"reason": "ContainerCreating"}})
        await asyncio.sleep(0.2)
        await api.remove()
        async with asyncio.timeout(3):
            assert "The session's pod was removed while it started." in await sentence(start)


async def test_something_else_that_answers_is_told(api: Api) -> None:
    async with server("X-Other: yes") as port, starting(await asked_spawner(api, port), api) as start:
        await api.becomes(RUNNING, "Running")
        assert "is no JupyterHub server" in await sentence(start)


async def test_where_nothing_answers_that_is_told(api: Api) -> None:
    api[f"get /api/v1/namespaces/{NAMESPACE}/pods/{NAME}/log"] << b"waiting"
    spawner = await asked_spawner(api)
    spawner.replay_answer_timeout = 0.3
    async with starting(spawner, api) as start:
        await api.becomes(RUNNING, "Running")
        assert "did not answer on port 1 within 0." in await sentence(start)
    assert api.pod is None


async def test_a_start_ends_with_a_reason_before_the_hub_ends_it_without(api: Api) -> None:
    spawner = await asked_spawner(api, start_timeout=2)
    async with starting(spawner, api) as start:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient memory."}  # fmt: skip
        await api.put({"status": {"conditions": [condition]}})
        assert "There was no room for the session within 1 seconds: not enough memory." in await sentence(start)
    assert api.pod is None


async def test_a_start_that_is_stopped_leaves_no_pod(api: Api) -> None:
    async with starting(await asked_spawner(api), api):
        pass
    assert api.pod is None


# watches


@pytest.mark.parametrize(
    "fault", [(410, "Expired", "too old resource version"), (429, "TooManyRequests", "later"), ConnectionResetError()]
)  # fmt: skip
async def test_a_watch_that_breaks_off_holds_up_no_start(api: Api, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "DIRECT_SECONDS", 0.3)
    api.faults["watch"] = [fault] * 100
    api.faults["list"] = [None, None, *[fault] * 100]
    async with server() as port, starting(await asked_spawner(api, port), api) as start:
        await api.becomes(RUNNING, "Running")
        # What the watch does not tell, the API is asked for.
        assert await start


async def test_a_watch_that_has_ended_for_good_is_started_anew(api: Api) -> None:
    async with server() as port:
        spawner = await asked_spawner(api, port)
        async with starting(spawner, api) as start:
            await api.becomes(RUNNING, "Running")
            await start
        before = spawner.pod_reflector
        before.watch_task.cancel()
        await asyncio.gather(before.watch_task, return_exceptions=True)
        # It cannot be started: what was known stays known, and is no word on what runs.
        api.faults["list"] = [(500, "x", "x")]
        assert await spawner.poll() is None
        assert spawner.pod_reflector is before
        assert await spawner.poll() is None
        assert spawner.pod_reflector is not before
        assert spawner._watched_pod() is not None


async def test_a_watch_that_could_not_begin_is_not_an_empty_cluster(api: Api) -> None:
    spawner = await asked_spawner(api)
    api.faults["list"] = [(500, "x", "x")] * 20
    assert "The cluster does not answer" in await sentence(asyncio.create_task(spawner.start()))
    # The two watches begin side by side, and the start is refused with the first that could not.
    for _ in range(1000):
        if spawner.pod_reflector is None:
            break
        await asyncio.sleep(0.01)
    assert spawner.pod_reflector is None


# a session that runs


@asynccontextmanager
async def session(api: Api, **settings: Any) -> AsyncIterator[Spawner]:
    """One that has started."""
    async with server() as port:
        spawner = await asked_spawner(api, port, **settings)
        async with starting(spawner, api) as start:
            await api.becomes(RUNNING, "Running")
            await start
            yield spawner


@pytest.mark.parametrize(
    ("state", "phase", "more", "status"),
    [
        ({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "Failed", {}, "ExitCode=137, OOMKilled"),
        ({"terminated": {"exitCode": 0, "reason": "Completed"}}, "Running", {}, "ExitCode=0, Completed"),
        (RUNNING, "Running", {"lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}, "ExitCode=1, Error"),
    ],
    ids=["killed", "ended beside others", "started anew"],
)  # fmt: skip
async def test_a_session_that_ended_is_told_to_the_hub(
    api: Api, state: dict[str, Any], phase: str, more: dict[str, Any], status: str
) -> None:
    async with session(api) as spawner:
        await api.becomes(state, phase, **more)
        await until(lambda: spawner._watched_pod()["status"]["containerStatuses"][0].get("state") == state and (not more or "lastState" in spawner._watched_pod()["status"]["containerStatuses"][0]), "the watch knows")  # fmt: skip
        assert await spawner.poll() == status
        await spawner.run_post_stop_hook()
        assert api.pod is None


async def test_an_evicted_session_is_told_to_the_hub(api: Api) -> None:
    async with session(api) as spawner:
        await api.put({"status": {"phase": "Failed", "reason": "Evicted", "containerStatuses": []}})
        await until(lambda: spawner._watched_pod()["status"]["phase"] == "Failed", "the watch knows")
        assert await spawner.poll() == "Failed: Evicted"


async def test_a_session_that_is_gone_is_told_to_the_hub(api: Api) -> None:
    async with session(api) as spawner:
        await api.remove()
        await until(lambda: spawner._watched_pod() is None, "the watch knows")
        # The watch alone is not believed.
        api.faults["fetch"] = [(500, "x", "x")]
        assert await spawner.poll() is None
        assert await spawner.poll() == 1


async def test_a_pod_of_another_launch_is_not_this_session(api: Api) -> None:
    async with session(api) as spawner:
        await api.put({"metadata": {"labels": {"replay.egi.eu/launch": "f" * 32}}})
        await until(lambda: spawner._watched_pod()["metadata"]["labels"]["replay.egi.eu/launch"] != LAUNCH, "the watch knows")  # fmt: skip
        assert await spawner.poll() == 1
        await spawner.stop(now=True)
        assert api.pod is not None, "it is not removed either"


async def test_a_restarted_hub_finds_the_session(api: Api) -> None:
    async with session(api) as before:
        state = json.loads(json.dumps(before.get_state()))
        after = await asked_spawner(api, before.port)
        after.plan = None
        after.load_state(state)
        assert await after.poll() is None
        await after.stop(now=True)
        assert api.pod is None


async def test_a_session_that_is_stopped_while_the_api_is_away_is_removed_later(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "AGAIN_SECONDS", 0.1)
    async with session(api) as spawner:
        api.faults["fetch"] = [(503, "x", "x"), ConnectionResetError()]
        api.faults["delete"] = [(500, "x", "x")]
        await spawner.stop()
        assert api.pod is not None
        await until(lambda: api.pod is None, "it is removed")


async def test_what_only_ends_slowly_is_not_waited_for_for_ever(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "AGAIN_SECONDS", 0.1)
    async with session(api) as spawner:
        assert api.pod is not None
        await api.put({"metadata": {"finalizers": ["of.the/node"]}})
        await spawner._leftovers.remove(spawner.api, spawner._session_pod(LAUNCH), seconds=0.3)
        assert api.pod["metadata"]["deletionTimestamp"]
        # All of it has ended: it is taken away.
        await api.becomes({"terminated": {"exitCode": 0}}, "Succeeded")
        await api.put({"metadata": {"finalizers": None}})
        await api.remove()
        await until(lambda: not spawner._leftovers._pods, "it is gone")


async def test_what_the_api_does_not_answer_is_silence() -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    with pytest.raises(ClusterSilent):
        await cluster.answer(never(), 0.05)
