"""The client for Kubernetes, on a server that misbehaves as API servers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import kmock
import pytest
import stamina

from replay_build_service.builders.kubernetes import client as client_module
from replay_build_service.builders.kubernetes.client import Cluster, ClusterFault, ClusterRefusal

PODS = "/api/v1/namespaces/builds/pods"


@pytest.fixture
async def server() -> AsyncIterator[kmock.RawHandler]:
    async with kmock.RawHandler() as handler, kmock.Server(handler):
        yield handler


@pytest.fixture
async def cluster(server: kmock.RawHandler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(client_module, "_AGAIN_SECONDS", 0.01)
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": str(server.url).rstrip("/")}}],
                "users": [{"name": "x", "user": {"token": "t"}}],
            }
        )
    )
    async with Cluster("builds", str(file)) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_long_waits() -> Any:
    with stamina.set_testing(True, attempts=4):
        yield


def status(code: int, message: str, **headers: str) -> kmock.Response:
    return kmock.Response(status=code, payload={"kind": "Status", "code": code, "message": message}, headers=headers)


def pod(name: str = "a", uid: str = "1", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid, "resourceVersion": "5", **more}, "spec": {}, "status": {}}


def listed(*pods: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "PodList", "metadata": {"resourceVersion": "10"}, "items": list(pods)}


def one_after_the_other(*answers: Any) -> Callable[[], Any]:
    """Each once, the last again and again."""
    # A status stays with the server until another one is named.
    left = [kmock.Response(status=200, payload=one) if isinstance(one, dict | tuple) else one for one in answers]
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    "fault",
    [status(500, "etcdserver: leader changed"), status(429, "too many requests", **{"Retry-After": "0"}), ConnectionResetError],
    ids=["500", "429", "reset"],
)  # fmt: skip
async def test_a_fault_is_asked_again(server: kmock.RawHandler, cluster: Cluster, fault: Any) -> None:
    server[f"get {PODS}/a"] << one_after_the_other(fault, fault, pod())
    assert (await cluster.pod("a") or {})["metadata"]["uid"] == "1"
    assert len(server["get"]) == 3


async def test_a_fault_that_stays_is_told_and_is_no_fact(server: kmock.RawHandler, cluster: Cluster) -> None:
    server[f"get {PODS}/a"] << status(503, "apiserver not ready")
    with pytest.raises(ClusterFault) as told:
        await cluster.pod("a")
    assert not isinstance(told.value, ClusterRefusal)
    assert "not ready" in told.value.detail
    assert "Try again" in told.value.sentence


async def test_what_is_not_there_is_a_fact(server: kmock.RawHandler, cluster: Cluster) -> None:
    server[f"get {PODS}/a"] << status(404, "not found")
    assert await cluster.pod("a") is None
    assert len(server["get"]) == 1


@pytest.mark.parametrize(
    ("code", "message", "is_quota"),
    [
        (403, 'pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2', True),
        (403, 'pods is forbidden: User "x" cannot create resource "pods"', False),
        (422, "Pod is invalid", False),
    ],
)
async def test_a_refusal_is_not_asked_again(
    server: kmock.RawHandler, cluster: Cluster, code: int, message: str, is_quota: bool
) -> None:
    server[f"post {PODS}"] << status(code, message)
    with pytest.raises(ClusterRefusal) as told:
        await cluster.create_pod(pod())
    assert (told.value.status, told.value.is_quota) == (code, is_quota)
    assert len(server["post"]) == 1


async def test_of_one_name_there_is_one_pod(server: kmock.RawHandler, cluster: Cluster) -> None:
    server[f"post {PODS}"] << one_after_the_other(
        status(409, 'pods "a" already exists'), status(409, 'object is being deleted: pods "a" already exists')
    )
    assert await cluster.create_pod(pod()) is None
    with pytest.raises(ClusterRefusal):
        await cluster.create_pod(pod())


async def test_a_pod_is_deleted_only_if_it_is_the_one_that_is_meant(server: kmock.RawHandler, cluster: Cluster) -> None:
    server[f"delete {PODS}/a"] << one_after_the_other(pod(), status(404, "gone"), status(409, "precondition failed"))
    for _ in range(3):
        await cluster.delete_pod("a", "uid-1", 2)
    bodies = [request.data for request in server["delete"]]
    assert bodies == [{"preconditions": {"uid": "uid-1"}, "gracePeriodSeconds": 2}] * 3


def change(kind: str, what: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": what}).encode() + b"\n"


async def test_a_watch_goes_on_whatever_ends_it(server: kmock.RawHandler, cluster: Cluster) -> None:
    """Dropped in the middle of a line, refused, too old (410, as a status and as an event), ended in good order."""
    changed = change("MODIFIED", pod(uid="changed"))
    watches = one_after_the_other(
        (changed[: len(changed) // 2], lambda: (_ for _ in ()).throw(ConnectionResetError)),
        status(410, "too old resource version"),
        (change("ERROR", {"code": 410, "message": "too old"}),),
        status(429, "slow down", **{"Retry-After": "1"}),
        (change("BOOKMARK", pod()),),
        (changed, change("DELETED", pod(uid="changed"))),
    )
    first = kmock.Response(status=200, payload=listed(pod(uid="first")))
    server[f"get {PODS}"] << (lambda request: watches() if request.params.get("watch") else first)
    seen = []
    async with asyncio.timeout(20), aclosing(cluster.watch_pod("a")) as states:
        async for state in states:
            assert state.pod is not None
            seen.append((state.pod["metadata"]["uid"], state.is_gone))
            if state.is_gone:
                break
    assert seen == [("first", False)] * 6 + [("changed", False), ("changed", True)]


async def test_no_pod_is_told_as_none(server: kmock.RawHandler, cluster: Cluster) -> None:
    server[f"get {PODS}"] << listed()
    async with asyncio.timeout(20), aclosing(cluster.watch_pod("a")) as states:
        async for state in states:
            assert (state.pod, state.is_gone) == (None, True)
            break


async def test_a_log_that_cannot_be_had_is_no_log(server: kmock.RawHandler, cluster: Cluster) -> None:
    """The client library hands on the text of a refusal as if it were the log."""
    server[f"get {PODS}/a/log"] << status(404, "no log")
    with pytest.raises(ClusterFault):
        await anext(cluster.printed("a", "log"))


async def test_warnings_are_told_in_their_order(server: kmock.RawHandler, cluster: Cluster) -> None:
    events = [
        {"reason": "Failed", "message": "later", "lastTimestamp": "2026-01-02T00:00:00Z"},
        {"reason": "FailedMount", "message": "first", "lastTimestamp": "2026-01-01T00:00:00Z"},
    ]
    server["get /api/v1/namespaces/builds/events"] << {"kind": "EventList", "metadata": {}, "items": events}
    assert await cluster.warnings("u") == ["FailedMount: first", "Failed: later"]
