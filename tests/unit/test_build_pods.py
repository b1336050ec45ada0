"""Build pods: their specification, what their states tell, and which node they go to. No cluster is needed for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.builders.detached.failures import CANCELLED, KILLED
from replay_build_service.builders.docker.instructions import Instructions
from replay_build_service.builders.kubernetes import places
from replay_build_service.builders.kubernetes.build import PodBuild
from replay_build_service.builders.kubernetes.client import Cluster, PodSeen
from replay_build_service.builders.kubernetes.pods import build_of, engine_address, is_ours, pod_name, pod_of, selector
from replay_build_service.builders.kubernetes.routing import node_for, ready_nodes
from replay_build_service.builders.kubernetes.runner import last_word
from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.builders.kubernetes.sources import LinesLost, LogText, printed_rest
from replay_build_service.builders.kubernetes.states import (
    Stage,
    ending_of,
    stage_of,
    why_it_never_ran,
    why_it_waits,
)
from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    BuildRecipe,
    FailureReason,
    ImageName,
    ResolvedRef,
    RunnableImage,
)
from replay_build_service.links import Repository, RepoSpec
from tests.unit.test_docker_parts import JOB as INSTRUCTIONS

SETTINGS = KubernetesBuilderSettings(
    namespace="builds", builder_image="registry.example.org/builder@sha256:1", site="https://hub.example.org"
)
ALL_SETTINGS = replace(
    SETTINGS,
    engine_socket="/run/replay-engine/docker.sock",
    engine_data="/var/lib/replay-engine",
    node_selector={"builds": "yes"},
    tolerations=[{"key": "builds", "operator": "Exists", "effect": "NoSchedule"}],
    resources={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    dns_policy="Default",
    push_secret="push",
    pull_secrets=["pull"],
    ca_config_map="authorities",
    priority_class="low",
    configuration="c.Repo2Docker.base_image = 'x'\n",
)
RESOLVED = ResolvedRef(
    Repository.of_url("https://example.org/a"), RepoSpec("gh", "a/b", "HEAD"), "https://example.org/a.git", "c" * 40
)
RECIPE = BuildRecipe("kubernetes")
JOB = BuildJob(BuildId("0123456789abcdef"), ImageName.of(RESOLVED, RECIPE), RESOLVED, RECIPE)


def made(settings: KubernetesBuilderSettings = SETTINGS, instructions: Instructions = INSTRUCTIONS) -> dict[str, Any]:
    return pod_of(settings, JOB, instructions, attempt=1, node="node-7")


class TestTheSpecification:
    @pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(28, 38)])
    @pytest.mark.parametrize("settings", [SETTINGS, ALL_SETTINGS], ids=["least", "all"])
    def test_kubernetes_takes_it(self, settings: KubernetesBuilderSettings, version: str) -> None:
        kubernetes_validate.validate(made(settings), version, strict=True)

    @pytest.mark.parametrize("settings", [SETTINGS, ALL_SETTINGS], ids=["least", "all"])
    def test_nothing_in_it_has_more_rights_than_it_needs(self, settings: KubernetesBuilderSettings) -> None:
        spec = made(settings)["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & spec.keys()
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert "privileged" not in context
            assert "env" not in container, "secrets least of all"

    def test_the_account_that_may_push_is_a_file_of_the_builder_alone(self) -> None:
        builder, log = made(ALL_SETTINGS)["spec"]["containers"]
        assert {places.CREDENTIALS, places.PRIVATE} <= {mount["mountPath"] for mount in builder["volumeMounts"]}
        assert [mount["mountPath"] for mount in log["volumeMounts"]] == [places.BUILD_VOLUME]
        (volume,) = [one for one in made(ALL_SETTINGS)["spec"]["volumes"] if one["name"] == "credentials"]
        assert volume["secret"]["defaultMode"] == 0o400
        assert [item["key"] for item in volume["secret"]["items"]] == [".dockerconfigjson"]

    @pytest.mark.parametrize(
        ("socket", "path", "kind", "mount"),
        [
            ("/run/replay-engine/docker.sock", "/run/replay-engine", "Directory", places.ENGINE),
            ("/var/run/docker.sock", "/var/run/docker.sock", "Socket", f"{places.ENGINE}/docker.sock"),
            ("/run/podman.sock", "/run/podman.sock", "Socket", f"{places.ENGINE}/podman.sock"),
        ],
    )
    def test_of_the_node_it_sees_the_engine_and_no_more(self, socket: str, path: str, kind: str, mount: str) -> None:
        settings = replace(SETTINGS, engine_socket=socket)
        spec = made(settings)["spec"]
        assert [one["hostPath"] for one in spec["volumes"] if "hostPath" in one] == [{"path": path, "type": kind}]
        assert mount in {one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
        assert engine_address(settings) == f"unix://{places.ENGINE}/{socket.rpartition('/')[2]}"

    def test_one_name_for_each_image_whoever_builds_it(self) -> None:
        name = pod_name(INSTRUCTIONS.image)
        assert made()["metadata"]["name"] == name
        assert pod_name(f"{INSTRUCTIONS.image}x") != name
        assert len(name) <= 63

    def test_two_services_in_one_namespace_know_their_own(self) -> None:
        other = replace(SETTINGS, site="https://other.example.org")
        assert selector(SETTINGS) != selector(other)
        assert (is_ours(SETTINGS, made()), is_ours(other, made())) == (True, False)
        assert build_of(made()) == JOB.build_id
        labels = made()["metadata"]["labels"]
        assert all(labels[key] == value for key, value in (part.split("=") for part in selector(SETTINGS).split(",")))

    @given(st.text())
    def test_what_the_runner_is_told_arrives_as_it_is(self, text: str) -> None:
        instructions = replace(INSTRUCTIONS, url=f"https://example.org/$(HOME)/$${text}")
        told = json.dumps(made(instructions=instructions))
        annotations = json.loads(told)["metadata"]["annotations"]
        assert Instructions.from_json(annotations["replay.egi.eu/instructions"]) == instructions

    def test_it_ends_by_itself_when_its_time_is_over(self) -> None:
        spec = made(replace(SETTINGS, time_limit=100, pod_wait=30))["spec"]
        assert spec["activeDeadlineSeconds"] > 130
        assert spec["terminationGracePeriodSeconds"] <= 5


def pod(
    state: Mapping[str, Any] | None = None,
    *,
    phase: str = "Running",
    reason: str | None = None,
    deleted: bool = False,
    node: str | None = "node-7",
    conditions: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """A pod as the API has it, with the builder's container in this state."""
    metadata = {"name": "x", "uid": "u", "creationTimestamp": "2026-11-24T12:00:00Z"}
    status: dict[str, Any] = {"phase": phase, "conditions": conditions or []}
    if reason:
        status["reason"] = reason
    if state is not None:
        status["containerStatuses"] = [{"name": "builder", "state": state}, {"name": "log", "state": {"running": {}}}]
    spec = {"nodeName": node} if node else {}
    return {"metadata": metadata | ({"deletionTimestamp": "now"} if deleted else {}), "spec": spec, "status": status}


def ended(message: str = "", code: int = 1, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


DEPENDENCIES = BuildFailure(FailureReason.DEPENDENCIES, "It needs “ßomething” that is not there.")


class TestHowItEnded:
    @pytest.mark.parametrize(
        ("end", "reason", "again"),
        [
            (pod(ended(last_word("sha256:1"), 0)), None, False),
            (pod(ended(last_word(DEPENDENCIES))), FailureReason.DEPENDENCIES, False),
            (pod(ended(last_word(CANCELLED))), FailureReason.CANCELLED, False),
            (pod(ended(last_word(KILLED)), deleted=True), FailureReason.KILLED, True),
            (pod(ended(last_word(KILLED)), phase="Failed", reason="Evicted"), FailureReason.EVICTED, True),
            (pod(None, phase="Failed", reason="Evicted"), FailureReason.EVICTED, True),
            (pod(ended(code=137), phase="Failed", reason="Evicted"), FailureReason.EVICTED, True),
            (pod(None, phase="Failed", reason="OutOfmemory"), FailureReason.EVICTED, True),
            (pod(ended(code=137), phase="Failed", reason="DeadlineExceeded"), FailureReason.TIMEOUT, False),
            (pod(ended(code=137, reason="OOMKilled")), FailureReason.MEMORY, False),
            # An older containerd calls it an error.
            (pod(ended(code=137)), FailureReason.MEMORY, False),
            (pod(ended(code=137), deleted=True), FailureReason.KILLED, True),
            (pod(ended(code=3)), FailureReason.INTERNAL, False),
            (pod(ended("scribbled {", code=0)), FailureReason.INTERNAL, False),
            (pod(ended('{"reason": "no such", "message": "x"}')), FailureReason.INTERNAL, False),
            (None, FailureReason.KILLED, True),
        ],
    )
    def test_each_end_has_its_own_reason(self, end: dict[str, Any] | None, reason: str | None, again: bool) -> None:
        ending = ending_of(end, 1800)
        if isinstance(ending.outcome, BuildFailure):
            assert ending.outcome.reason == reason
            assert ending.outcome.message.endswith((".", "here."))
        else:
            assert (reason, ending.outcome) == (None, "sha256:1")
        assert ending.is_worth_another is again

    def test_the_runners_own_words_come_through(self) -> None:
        assert ending_of(pod(ended(last_word(DEPENDENCIES))), 1).outcome == DEPENDENCIES
        assert len(last_word(BuildFailure(FailureReason.STEP, "ß" * 9000)).encode()) < 4096

    def test_an_end_is_no_end_because_the_log_goes_on(self) -> None:
        assert stage_of(pod({"running": {}})) is Stage.RUNNING
        assert stage_of(pod(ended())) is Stage.ENDED
        assert stage_of(pod(None, phase="Failed")) is Stage.ENDED
        assert stage_of(pod({"waiting": {"reason": "ContainerCreating"}}, phase="Pending")) is Stage.WAITING
        assert stage_of(pod(None, phase="Pending")) is Stage.WAITING

    @pytest.mark.parametrize(
        ("waiting", "words", "reason"),
        [
            (
                pod(None, phase="Pending", node=None, conditions=[{"type": "PodScheduled", "status": "False"}]),
                "No machine has room",
                FailureReason.CAPACITY,
            ),
            (
                pod({"waiting": {"reason": "ImagePullBackOff"}}, phase="Pending"),
                "image of the builder cannot be had",
                FailureReason.BUILDER,
            ),
            (
                pod({"waiting": {"reason": "ContainerCreating"}}, phase="Pending"),
                "gets ready",
                FailureReason.BUILDER,
            ),
            (
                pod({"waiting": {"reason": "CreateContainerConfigError"}}, phase="Pending"),
                "gets ready",
                FailureReason.BUILDER,
            ),
        ],
    )
    def test_what_waits_is_told_and_ends_in_a_sentence(self, waiting: dict[str, Any], words: str, reason: str) -> None:
        assert words in (why_it_waits(waiting) or "")
        failure = why_it_never_ran(waiting, 300, "FailedMount: no such secret")
        assert failure.reason == reason
        assert "tell the administrators" in failure.message.lower()
        if reason == FailureReason.BUILDER:
            assert "no such secret" in failure.message

    def test_of_a_pod_that_was_just_made_there_is_nothing_to_tell(self) -> None:
        assert why_it_waits(pod(None, phase="Pending", node=None)) is None


NODES = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=8)


class TestRouting:
    @given(NODES, st.text())
    def test_a_repository_has_one_node_whatever_order_they_are_listed_in(self, nodes: set[str], repo: str) -> None:
        chosen = node_for(repo, nodes)
        assert chosen in nodes
        assert node_for(repo, sorted(nodes)) == node_for(repo, sorted(nodes, reverse=True)) == chosen

    @given(NODES, st.text(), st.text(min_size=9, max_size=9))
    def test_another_node_moves_only_what_goes_to_it(self, nodes: set[str], repo: str, new: str) -> None:
        assert node_for(repo, {*nodes, new}) in {node_for(repo, nodes), new}

    def test_many_repositories_are_spread(self) -> None:
        nodes = {"a", "b", "c", "d"}
        counts = dict.fromkeys(nodes, 0)
        for number in range(400):
            counts[node_for(f"https://example.org/{number}", nodes) or ""] += 1
        assert min(counts.values()) > 50

    def test_without_nodes_the_scheduler_decides(self) -> None:
        assert node_for("x", ()) is None

    def test_only_engines_that_are_ready_count(self) -> None:
        ready = [{"type": "Ready", "status": "True"}]
        engines = [
            pod({}, node="a", conditions=ready),
            pod({}, node="b", conditions=[{"type": "Ready", "status": "False"}]),
            pod({}, node=None, conditions=ready),
            pod({}, node="d", conditions=ready, deleted=True),
        ]
        assert ready_nodes(engines) == {"a"}


class TestTextOfALog:
    def record(self, text: str) -> bytes:
        return json.dumps({"kind": "line", "phase": "building", "text": text, "at": 1.0}).encode() + b"\n"

    def test_a_line_without_an_end_is_not_kept_and_what_follows_it_is_read(self) -> None:
        """The build could reach the file, and may have put a line there that never ends."""
        text = LogText(0)
        fed = 0
        for _ in range(100):
            assert list(text.feed(b"x" * 100_000)) == []
            fed += 100_000
            assert text.pending < 1_000_000
        last = b"\n" + self.record("after it")
        assert [one.text for records in text.feed(last) for one in records] == ["after it"]
        assert text.offset == fed + len(last), "nothing is read twice after a break"


class Scribbled:
    """What a build asks a cluster, where the log of its pod never ends."""

    def __init__(self, chunk: bytes) -> None:
        self._chunk = chunk
        self.pod = pod({"running": {}}) | {
            "metadata": pod()["metadata"] | {"creationTimestamp": "2999-01-01T00:00:00Z"}
        }
        self.deleted: list[str] = []
        self.read = 0

    async def watch_pod(self, name: str) -> AsyncIterator[PodSeen]:
        yield PodSeen(self.pod, False)

    async def execute(self, name: str, container: str, command: Sequence[str]) -> AsyncIterator[bytes]:
        while True:
            self.read += len(self._chunk)
            yield self._chunk

    async def delete_pod(self, name: str, uid: str, grace: int) -> None:
        self.deleted.append(uid)


@dataclass
class Maker:
    cluster: Cluster
    output_limit: int = 1_000_000
    pod_wait: float = 60
    time_limit: float = 60
    deadline: float = 180

    async def make_pod(self, job: BuildJob, attempt: int) -> Mapping[str, Any] | None:
        raise AssertionError("the pod is there")

    async def outcome(self, job: BuildJob, digest: str) -> RunnableImage | BuildFailure:
        raise AssertionError(f"there is none: {digest}")


async def test_a_log_without_end_ends_the_build_and_not_the_service() -> None:
    """The runner keeps to the limit on output; whoever has taken its pod over need not."""
    scribbled = Scribbled(TestTextOfALog().record("x" * 60_000))
    build = PodBuild(Maker(cast("Cluster", scribbled)), JOB, "pod", scribbled.pod)
    told = 0
    async with asyncio.timeout(20):
        async for chunk in build.follow(0):
            told += sum(len(one.text) for one in chunk.records)
    failure = await build.outcome()
    assert isinstance(failure, BuildFailure)
    assert (failure.reason, "more than 1 MB" in failure.message) == (FailureReason.OUTPUT_LIMIT, True)
    assert told <= 4_000_000
    assert scribbled.deleted == ["u"]


class Printed:
    """The one thing that `printed_rest` asks a cluster: what a node has kept of a container's output."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    async def printed(self, name: str, container: str) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


def record_bytes(number: int) -> bytes:
    told = {"kind": "line", "phase": "building", "text": f"line {number}", "at": 1000.0 + number // 10}
    return json.dumps(told).encode() + b"\n"


class TestWhatTheNodeHasKept:
    async def rest(self, seen: int, first_kept: int) -> tuple[list[int], bool]:
        """Of 1,000 lines, seen up to one, kept from one on: those that come, and whether it is told that some are lost."""
        text = LogText(0)
        for number in range(seen):
            list(text.feed(record_bytes(number)))
        kept = b"".join(record_bytes(number) for number in range(first_kept, 1000))
        came: list[int] = []
        try:
            async for records in printed_rest(cast("Cluster", Printed(kept[:777], kept[777:])), "pod", text):
                came += [int(one.text.removeprefix("line ")) for one in records]
        except LinesLost:
            return came, True
        return came, False

    async def test_all_of_it(self) -> None:
        assert await self.rest(seen=0, first_kept=0) == (list(range(1000)), False)

    async def test_goes_on_after_the_last_line_that_was_seen(self) -> None:
        assert await self.rest(seen=100, first_kept=0) == (list(range(100, 1000)), False)
        assert await self.rest(seen=900, first_kept=800) == (list(range(900, 1000)), False)
        assert await self.rest(seen=1000, first_kept=800) == ([], False)

    async def test_lines_that_the_node_threw_away_are_said_to_be_lost_and_the_others_come(self) -> None:
        assert await self.rest(seen=100, first_kept=800) == (list(range(800, 1000)), True)
