"""What a session uses, by each source: this machine's processes, and answers as an engine and a metrics API give them."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.usage import Usage, UsageSource, base, within_time
from replay_spawner.usage.engine import usage_of_container
from replay_spawner.usage.metrics import quantity, usage_of_pod
from replay_spawner.usage.process import usage_of_tree

MIB = 1024**2

# this machine's processes

_CHILD = "x = bytearray(b'x') * (64 << 20); print(flush=True)\nwhile True: pass"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD!r}])"


@pytest.fixture
def busy() -> Iterator["subprocess.Popen[bytes]"]:
    """A server with a kernel that has 64 MB and does not rest."""
    process = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.needs("linux")
def test_a_servers_descendants_count_and_its_limit_is_read_from_it(busy: "subprocess.Popen[bytes]") -> None:
    used = usage_of_tree(busy.pid)
    assert used is not None
    assert used.source is UsageSource.PROCESS
    assert 64 * MIB < used.memory_used < 256 * MIB
    assert used.memory_limit is None
    assert used.cpu_used is not None
    assert used.cpu_used > 0
    assert used.oom_kills is None
    resource.prlimit(busy.pid, resource.RLIMIT_DATA, (1024 * MIB, 1024 * MIB))
    limited = usage_of_tree(busy.pid)
    assert limited is not None
    assert limited.memory_limit == 1024 * MIB


def test_of_a_process_that_has_ended_nothing_is_said() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert usage_of_tree(process.pid) is None
    assert usage_of_tree(0) is None


async def test_figures_that_take_too_long_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ASK_SECONDS", 0.01)
    never: asyncio.Future[Usage | None] = asyncio.get_running_loop().create_future()
    assert await within_time(never) is None


# an engine


def stats(read: str, nanoseconds: int, **memory: Any) -> dict[str, Any]:
    return {"read": read, "cpu_stats": {"cpu_usage": {"total_usage": nanoseconds}}, "memory_stats": memory}


FIRST = stats("2026-11-26T09:00:00.123456789Z", 1_000_000_000)
CGROUP_2 = {"usage": 300 * MIB, "stats": {"inactive_file": 100 * MIB, "anon": 150 * MIB}, "limit": 8192 * MIB}
CGROUP_1 = {
    "usage": 300 * MIB,
    "stats": {"inactive_file": 1 * MIB, "total_inactive_file": 120 * MIB},
    "limit": 512 * MIB,
}
RUNNING = {
    "State": {"OOMKilled": False},
    "HostConfig": {"Memory": 512 * MIB, "NanoCpus": 0, "CpuQuota": 150_000, "CpuPeriod": 100_000},
}
FREE = {"State": {}, "HostConfig": {"Memory": 0, "NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0}}


@pytest.mark.parametrize(
    ("memory", "inspected", "kills", "used"),
    [
        pytest.param(CGROUP_2, RUNNING, 0, Usage(UsageSource.ENGINE, 200 * MIB, 512 * MIB, 0.5, 1.5, 0), id="v2"),
        pytest.param(CGROUP_1, RUNNING, 2, Usage(UsageSource.ENGINE, 180 * MIB, 512 * MIB, 0.5, 1.5, 2), id="v1"),
        pytest.param(CGROUP_2, FREE, None, Usage(UsageSource.ENGINE, 200 * MIB, None, 0.5, None, None), id="no-limits"),
        pytest.param(
            CGROUP_2,
            {"State": {"OOMKilled": True}, "HostConfig": {"NanoCpus": 2_000_000_000}},
            0,
            Usage(UsageSource.ENGINE, 200 * MIB, None, 0.5, 2.0, 1),
            id="forgotten-event",
        ),
        pytest.param({}, RUNNING, 0, None, id="ended"),
    ],
)
def test_an_engines_figures_are_read(
    memory: dict[str, Any], inspected: dict[str, Any], kills: int | None, used: Usage | None
) -> None:
    second = stats("2026-11-26T09:00:01.123456789Z", 1_500_000_000, **memory)
    assert usage_of_container(FIRST, second, inspected, kills) == used


@pytest.mark.parametrize(
    "second",
    [
        stats("2026-11-26T09:00:00.123456789Z", 1_500_000_000, **CGROUP_2),
        stats("0001-01-01T00:00:00Z", 0, **CGROUP_2),
        stats("never", 1, **CGROUP_2),
        {"memory_stats": CGROUP_2},
    ],
    ids=["no-time-between", "not-read", "no-time", "no-cpu"],
)
def test_where_an_engine_does_not_tell_the_processors_time_the_memory_is_told(second: dict[str, Any]) -> None:
    used = usage_of_container(FIRST, second, RUNNING, 0)
    assert used is not None
    assert (used.memory_used, used.cpu_used) == (200 * MIB, None)


# a metrics API


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"), ("1500m", "1.5"), ("12345678n", "0.012345678"), ("250u", "0.00025"), ("4Gi", "4294967296"),
        ("131072Ki", "134217728"), ("1.5G", "1500000000"), ("2e3", "2000"), ("1E3", "1000"), ("1E", "1e18"),
        ("1Ei", "1152921504606846976"), ("100k", "100000"), ("-1", "-1"), (".5", "0.5"),
    ],
)  # fmt: skip
def test_a_quantity_is_read_as_kubernetes_writes_it(text: str, number: str) -> None:
    assert quantity(text) == Decimal(number)


@given(st.text() | st.none() | st.lists(st.text(), max_size=1))
def test_what_is_no_quantity_is_none_and_no_fault(value: object) -> None:
    found = quantity(value)
    assert found is None or isinstance(found, Decimal)


def pod_with(limits: dict[str, str] | None) -> dict[str, Any]:
    containers = [{"name": "sidecar", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "notebook"}]
    if limits is not None:
        containers[1]["resources"] = {"limits": limits}
    return {"metadata": {"name": "jupyter-ada", "namespace": "users"}, "spec": {"containers": containers}}


def metrics_of(*containers: tuple[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "kind": "PodMetrics",
        "window": "15.2s",
        "containers": [{"name": name, "usage": usage} for name, usage in containers],
    }


@pytest.mark.parametrize(
    ("metrics", "limits", "used"),
    [
        (
            metrics_of(
                ("sidecar", {"cpu": "1", "memory": "9Gi"}), ("notebook", {"cpu": "250000000n", "memory": "262144Ki"})
            ),
            {"memory": "512Mi", "cpu": "1500m", "nvidia.com/gpu": "1"},
            Usage(UsageSource.METRICS, 256 * MIB, 512 * MIB, 0.25, 1.5),
        ),
        (metrics_of(("notebook", {"memory": "1Ki"})), None, Usage(UsageSource.METRICS, 1024)),
        (metrics_of(("sidecar", {"cpu": "1", "memory": "9Gi"})), {"memory": "1Gi"}, None),
        (metrics_of(), None, None),
        ({}, None, None),
    ],
)
def test_a_pods_figures_are_those_of_the_persons_container(
    metrics: dict[str, Any], limits: dict[str, str] | None, used: Usage | None
) -> None:
    assert usage_of_pod(metrics, pod_with(limits), "notebook") == used


class MetricsAPI:
    """A cluster's, by what it answers: a status with a body."""

    def __init__(self, status: int, body: str) -> None:
        self.status, self.body, self.asked = status, body, 0

    async def answer(self, call: Any, seconds: float = 0) -> Any:
        call.close()
        self.asked += 1
        refusal = ApiException(self.status, "told")
        refusal.body = self.body
        raise refusal


NO_SUCH_API = "404 page not found\n"
NO_FIGURES_YET = '{"kind":"Status","message":"podmetrics.metrics.k8s.io \\"users/jupyter-ada\\" not found","code":404}'
FORBIDDEN = '{"kind":"Status","message":"pods.metrics.k8s.io is forbidden: User cannot get resource","code":403}'


@pytest.mark.parametrize(
    ("status", "body", "asked"),
    [(404, NO_SUCH_API, 1), (403, FORBIDDEN, 1), (404, NO_FIGURES_YET, 2)],
    ids=["no-api", "no-right", "no-figures-yet"],
)
async def test_a_cluster_without_figures_is_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch, status: int, body: str, asked: int
) -> None:
    from replay_spawner.kube import figures

    cluster = MetricsAPI(status, body)

    async def never(*_: object, **__: object) -> None:
        raise AssertionError("the answer is told")

    class Client:
        def __init__(self, _: object) -> None: ...

        get_namespaced_custom_object = never

    monkeypatch.setattr(figures, "answer", cluster.answer)
    monkeypatch.setattr(figures, "CustomObjectsApi", Client)
    api: Any = type("Api", (), {"api_client": None})()
    source = figures.Figures()
    assert await source.of(api, pod_with(None)) is None
    assert await source.of(api, pod_with(None)) is None
    assert cluster.asked == asked

    monkeypatch.setattr(figures, "ABSENT_SECONDS", 0.0)
    source = figures.Figures()
    assert await source.of(api, pod_with(None)) is None
    assert await source.of(api, pod_with(None)) is None
    assert cluster.asked == asked + 2, "after a while it may have come"
