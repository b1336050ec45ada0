"""Builds as pods: real repo2docker in a real pod, a real engine and registry, and every way in which a pod can end."""

import asyncio
import base64
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo.git_server import GitServer
from replay_build_service.builders.base import RunningBuild
from replay_build_service.builders.kubernetes.builder import KubernetesBuilder
from replay_build_service.domain import BuildFailure, BuildJob, EventKind, FailureReason, Phase, RunnableImage
from tests.cluster.builds import BuildBench
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.containers.builds import lines, log_of
from tests.containers.engine import ContainerEngine
from tests.registry_server import PASSWORD, USER, Login, RegistryServer
from tests.site import make_repository

pytestmark = pytest.mark.needs("cluster", "engine", "registry", "git-server")


@pytest.fixture
def bench(
    cluster: AnyCluster, kube: Kube, cluster_engine: ContainerEngine, cluster_registry: RegistryServer, cluster_git: GitServer,
    base_image: str, builder_image: str, namespace: Callable[[str], str], tmp_path: Path,
) -> BuildBench:  # fmt: skip
    return BuildBench(
        cluster, kube, cluster_engine, cluster_registry, cluster_git, base_image, builder_image, namespace("builds"), tmp_path
    )  # fmt: skip


@pytest.fixture
def locked_registry(cluster: AnyCluster, tmp_path: Path) -> Iterator[RegistryServer]:
    """One that nobody may push to without an account."""
    with RegistryServer(tmp_path / "locked", login=Login.BASIC, host=cluster.host_address) as registry:
        yield registry


async def until_says(build: RunningBuild, text: str, position: int = 0) -> tuple[int, list[str]]:
    """The position after the chunk with a line that ends so, and all texts of the log so far."""
    seen: list[str] = []
    async for chunk in build.follow(position):
        seen += [record.text for record in chunk.records if record.phase is not Phase.WAITING]
        if any(record.text.endswith(text) for record in chunk.records if record.kind is EventKind.LINE):
            return chunk.position, seen
    raise AssertionError(f"The build ended without {text!r}: {await build.outcome()}\n" + "\n".join(seen[-30:]))


async def failure(builder: KubernetesBuilder, job: BuildJob) -> tuple[BuildFailure, list[str]]:
    build = await builder.start(job)
    log = await log_of(build)
    outcome = await build.outcome()
    assert isinstance(outcome, BuildFailure), outcome
    await builder.discard(job)
    return outcome, [record.text for record in log]


async def until(is_so: Callable[[], Any], what: str, seconds: float = 60) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not await asyncio.to_thread(is_so):
        assert asyncio.get_running_loop().time() < deadline, f"still not so: {what}"
        await asyncio.sleep(0.1)


class TestWhatIsBuilt:
    async def test_an_image_is_pushed_and_known_by_the_registrys_digest(self, bench: BuildBench) -> None:
        value = secrets.token_hex(8)
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile(f"RUN echo {value} > /srv/value && echo said-{value}"))
            build = await builder.start(job)
            log = await log_of(build)
            outcome = await build.outcome()
            assert isinstance(outcome, RunnableImage), (outcome, lines(log)[-30:])
            host = bench.registry.settings().host
            digest = bench.registry.digest(job.image_name.repository, job.image_name.tag)
            assert outcome.location == outcome.reference == f"{host}/{job.image_name.repository}@{digest}"
            assert await builder.exists(outcome, thoroughly=True)
            phases = [record.phase for record in log if record.kind is EventKind.PHASE]
            assert [phase for phase in phases if phase is not Phase.WAITING] == [
                Phase.FETCHING, Phase.BUILDING, Phase.PUSHING,
            ]  # fmt: skip
            assert any(text.endswith(f"said-{value}") for text in lines(log))
            assert bench.engine.docker("run", "--rm", outcome.location, "cat", "/srv/value") == value
            session = await builder.session(outcome)
            assert session.configuration is not None
            assert session.configuration.user == "1000"
            await builder.tidy(job)
            await until(lambda: bench.pod(job) is None, "the pod is gone")

    async def test_the_next_commit_takes_over_what_the_last_image_has(self, bench: BuildBench) -> None:
        environment = "RUN echo environment > /srv/environment"
        async with bench.builder() as builder:
            first = bench.job(builder, bench.dockerfile(environment, "COPY n /srv/n") | {"n": "1"}, "twice")
            build = await builder.start(first)
            await log_of(build)
            image = await build.outcome()
            assert isinstance(image, RunnableImage), image
            await builder.tidy(first)
            bench.engine.docker("builder", "prune", "--all", "--force")
            second = bench.job(builder, bench.dockerfile(environment, "COPY n /srv/n") | {"n": "2"}, "twice")
            build = await builder.start(second, [image])
            log = await log_of(build)
            assert isinstance(await build.outcome(), RunnableImage), lines(log)[-30:]
            assert any("CACHED" in text for text in lines(log)), lines(log)
            await builder.tidy(second)

    async def test_two_that_ask_for_one_image_get_one_pod(self, bench: BuildBench) -> None:
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 2; :"))
            await asyncio.gather(*(builder.start(job) for _ in range(5)))
            assert len(bench.kube.pods(bench.namespace)) == 1
            build = await builder.start(job)
            log = await log_of(build)
            assert isinstance(await build.outcome(), RunnableImage), lines(log)[-30:]
            await builder.tidy(job)

    async def test_an_image_that_would_run_as_root_is_refused_and_removed(self, bench: BuildBench) -> None:
        async with bench.builder() as builder:
            job = bench.job(builder, {"Dockerfile": f"FROM {bench.base_image}\n"})
            said, _ = await failure(builder, job)
            assert said.reason is FailureReason.CANNOT_BUILD
            assert "root" in said.message
            assert bench.registry.digest(job.image_name.repository, job.image_name.tag) is None

    async def test_the_account_that_pushes_is_a_file_of_the_builder_alone(
        self, bench: BuildBench, kube: Kube, locked_registry: RegistryServer
    ) -> None:
        bench = replace(bench, registry=locked_registry)
        account = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        async with bench.builder(push_secret="push") as builder:
            bench.push_secret("push", bench.registry.settings().host, account)
            job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 6; :"))
            build = await builder.start(job)
            position, _ = await until_says(build, "ready")

            async def said(container: str, script: str) -> str:
                command = ("sh", "-c", script)
                where = bench.namespace, bench.pod_name(job)
                return (await asyncio.to_thread(kube.run_in, *where, *command, container=container)).strip()

            assert await said("builder", "stat -L -c '%a %u' /replay/credentials/config.json") == "400 0"
            everywhere = f"grep -rls {account} /build /replay /tmp /proc/1/environ || echo none"
            assert "/replay/private/docker/config.json" in await said("builder", everywhere), "what it pushes with"
            assert await said("log", everywhere) == "none"
            assert account not in str(bench.pod(job))
            async for _ in build.follow(position):
                pass
            assert isinstance(await build.outcome(), RunnableImage)
            await builder.tidy(job)

    async def test_without_the_account_the_registrys_refusal_is_told(
        self, bench: BuildBench, locked_registry: RegistryServer
    ) -> None:
        bench = replace(bench, registry=locked_registry)
        async with bench.builder() as builder:
            said, _ = await failure(builder, bench.job(builder, bench.dockerfile("RUN date > /srv/x; :")))
            assert said.reason is FailureReason.REGISTRY, said


class TestTheLog:
    async def test_300_000_lines_all_arrive(self, bench: BuildBench) -> None:
        """Kubelet rotates what a container prints at 10 MiB; this is more than twice as much."""
        many = 300_000
        async with bench.builder(output_limit=200_000_000) as builder:
            # BuildKit drops what is still unsaid a few seconds after the last step.
            step = "RUN for n in $(seq 0 29); do seq -f 'line-%.0f-of-many' $((n * 10000 + 1)) $((n * 10000 + 10000)); sleep 0.4; done"
            job = bench.job(builder, bench.dockerfile(f"{step}; sleep 30"))
            build = await builder.start(job)
            found: list[int] = []
            async for chunk in build.follow(0):
                found += [
                    int(record.text.rpartition("line-")[2].partition("-")[0])
                    for record in chunk.records
                    if record.text.endswith("-of-many")
                ]
            assert isinstance(await build.outcome(), RunnableImage), await build.outcome()
            assert found == list(range(1, many + 1))
            await builder.tidy(job)

    async def test_the_next_service_reads_on_where_the_last_one_stopped(self, bench: BuildBench) -> None:
        steps = "RUN for n in 1 2 3 4 5 6 7 8 9; do echo step-$n; sleep 1; done"
        async with bench.builder() as first:
            job = bench.job(first, bench.dockerfile(steps))
            position, before = await until_says(await first.start(job), "step-3")
        async with bench.builder() as second:
            build = await second.start(job)
            after = [record.text async for chunk in build.follow(position) for record in chunk.records]
            assert isinstance(await build.outcome(), RunnableImage), after[-30:]
            told = [text for text in before + after if "step-" in text and "RUN" not in text and "[" not in text]
            assert [text.rpartition("step-")[2] for text in told] == list("123456789")
            # From the first line, for one who has nothing yet, also when the build has ended.
            again = await second.start(job)
            whole = [record.text async for chunk in again.follow(0) for record in chunk.records]
            assert whole == before + after
            assert await again.outcome() == await build.outcome()
            await second.tidy(job)

    async def test_an_api_server_that_is_away_costs_no_line(self, bench: BuildBench, cluster: AnyCluster) -> None:
        steps = "RUN for n in $(seq 1 45); do echo step-$n; sleep 1; done"
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile(steps))
            build = await builder.start(job)
            position, seen = await until_says(build, "step-3")
            await asyncio.to_thread(cluster.stop_api_server)

            async def come_back() -> None:
                await asyncio.sleep(30)
                await asyncio.to_thread(cluster.start_api_server)

            back = asyncio.create_task(come_back())
            seen += [record.text async for chunk in build.follow(position) for record in chunk.records]
            await back
            assert isinstance(await build.outcome(), RunnableImage), seen[-30:]
            told = [text.rpartition("step-")[2] for text in seen if "step-" in text and "seq" not in text]
            assert told == [str(n) for n in range(1, 46)]
            await builder.tidy(job)


class TestHowPodsEnd:
    async def test_cancelled(self, bench: BuildBench) -> None:
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 600"))
            build = await builder.start(job)
            position, _ = await until_says(build, "ready")
            await build.cancel()
            async for _ in build.follow(position):
                pass
            outcome = await build.outcome()
            assert isinstance(outcome, BuildFailure)
            assert outcome.reason is FailureReason.CANCELLED
            # It is on record in the pod: a service that died now would not start the build anew.
            later = await builder.start(job)
            async for _ in later.follow(position):
                pass
            assert await later.outcome() == outcome
            await builder.discard(job)
            await until(lambda: bench.pod(job) is None, "the pod is gone")

    async def test_cancelled_before_it_ran(self, bench: BuildBench) -> None:
        async with bench.builder(node_selector={"no": "such"}) as builder:
            job = bench.job(builder, bench.dockerfile())
            build = await builder.start(job)
            await build.cancel()
            async with asyncio.timeout(20):
                await log_of(build)
            outcome = await build.outcome()
            assert isinstance(outcome, BuildFailure)
            assert outcome.reason is FailureReason.CANCELLED
            assert bench.kube.pods(bench.namespace) == []

    async def test_deleted_once_it_starts_again_and_twice_it_is_told(self, bench: BuildBench) -> None:
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 5; echo done-$(( 1 + 1 )); :"))
            build = await builder.start(job)
            position, _ = await until_says(build, "ready")
            bench.kube.delete("pods", bench.namespace, bench.pod_name(job))
            async with asyncio.timeout(90):
                rest = [record async for chunk in build.follow(position) for record in chunk.records]
            outcome = await build.outcome()
            assert isinstance(outcome, RunnableImage), (outcome, [record.text for record in rest][-30:])
            assert any("Another one starts" in record.text for record in rest)
            await builder.tidy(job)

            job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 600"))
            build = await builder.start(job)
            position = 0
            for _ in range(2):
                position, _ = await until_says(build, "ready", position)
                bench.kube.delete("pods", bench.namespace, bench.pod_name(job))
                await until(lambda: bench.pod(job) is None, "the pod is gone")
            async for _ in build.follow(position):
                pass
            outcome = await build.outcome()
            assert isinstance(outcome, BuildFailure)
            assert outcome.reason is FailureReason.KILLED
            await builder.discard(job)
            await until(lambda: bench.kube.pods(bench.namespace) == [], "no pod is left")

    async def test_evicted_it_starts_again(self, bench: BuildBench) -> None:
        async with bench.builder(repository_limit=1_000_000, output_limit=1_000_000) as builder:
            # It goes on for as long as the kubelet takes to look at the disk, and no longer.
            gate = f"gate-{secrets.token_hex(4)}"
            open_gate = f"until git ls-remote {bench.forge.url.rstrip('/')}/{gate}.git; do sleep 1; done"
            job = bench.job(builder, bench.dockerfile(f"RUN echo ready; {open_gate}"))
            build = await builder.start(job)
            position, _ = await until_says(build, "ready")
            full = "head -c 40000000 /dev/zero > /build/much"
            await asyncio.to_thread(
                bench.kube.run_in, bench.namespace, bench.pod_name(job), "sh", "-c", full, container="builder"
            )

            def is_evicted() -> bool:
                return any(event["reason"] == "Evicted" for event in bench.kube.events(bench.namespace))

            await until(is_evicted, "the pod is evicted", 180)
            make_repository(bench.forge, bench.folder / gate, gate, {"open": ""})
            async with asyncio.timeout(180):
                rest = [record.text async for chunk in build.follow(position) for record in chunk.records]
            assert any("Another one starts" in text for text in rest), rest
            outcome = await build.outcome()
            assert isinstance(outcome, RunnableImage), (outcome, rest[-30:])
            await builder.tidy(job)

    async def test_no_node_has_room(self, bench: BuildBench) -> None:
        async with bench.builder(resources={"requests": {"memory": "900Gi"}}, pod_wait=4.0) as builder:
            said, told = await failure(builder, bench.job(builder, bench.dockerfile()))
            assert said.reason is FailureReason.CAPACITY
            assert "No machine has room" in told[0]

    async def test_the_builders_image_cannot_be_pulled(self, bench: BuildBench) -> None:
        missing = f"{bench.registry.settings().host}/no-such:1"
        async with bench.builder(builder_image=missing, pod_wait=8.0) as builder:
            said, _ = await failure(builder, bench.job(builder, bench.dockerfile()))
            assert said.reason is FailureReason.BUILDER
            assert "could not be pulled" in said.message

    async def test_a_secret_that_is_missing_is_named(self, bench: BuildBench) -> None:
        async with bench.builder(push_secret="no-such", pod_wait=8.0) as builder:
            said, _ = await failure(builder, bench.job(builder, bench.dockerfile()))
            assert said.reason is FailureReason.BUILDER
            assert "no-such" in said.message

    async def test_out_of_memory(self, bench: BuildBench) -> None:
        async with bench.builder(resources={"limits": {"memory": "24Mi"}}) as builder:
            said, _ = await failure(builder, bench.job(builder, bench.dockerfile()))
            assert said.reason is FailureReason.MEMORY, said

    async def test_over_its_time(self, bench: BuildBench) -> None:
        async with bench.builder(time_limit=8.0) as builder:
            said, told = await failure(builder, bench.job(builder, bench.dockerfile("RUN echo ready; sleep 600")))
            assert said.reason is FailureReason.TIMEOUT
            assert any(text.endswith("ready") for text in told)

    async def test_over_its_pods_deadline(self, bench: BuildBench) -> None:
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 600"))
            build = await builder.start(job)
            position, _ = await until_says(build, "ready")
            bench.kube.patch("pods", bench.namespace, bench.pod_name(job), {"spec": {"activeDeadlineSeconds": 1}})
            async for _ in build.follow(position):
                pass
            outcome = await build.outcome()
            assert isinstance(outcome, BuildFailure)
            assert outcome.reason is FailureReason.TIMEOUT, outcome
            await builder.discard(job)

    async def test_a_quota_that_is_reached_is_waited_for(self, bench: BuildBench) -> None:
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": bench.namespace},
            "spec": {"hard": {"pods": "0"}},
        }
        bench.kube.apply(quota)
        async with bench.builder(pod_wait=5.0) as builder:
            await asyncio.sleep(1)
            said, told = await failure(builder, bench.job(builder, bench.dockerfile()))
            assert said.reason is FailureReason.CAPACITY
            assert "as much as it may" in told[0]
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile("RUN echo fine"))
            build = await builder.start(job)
            async for chunk in build.follow(0):
                if any("as much as it may" in record.text for record in chunk.records):
                    bench.cluster.kubectl("delete", "resourcequota", "none", f"--namespace={bench.namespace}")
            assert isinstance(await build.outcome(), RunnableImage), await build.outcome()
            await builder.tidy(job)

    async def test_what_is_left_of_ended_builds_is_swept_up(self, bench: BuildBench) -> None:
        async with bench.builder() as builder:
            kept = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 600"))
            left = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 600; :"))
            for job in (kept, left):
                await until_says(await builder.start(job), "ready")
            assert await builder.sweep([kept.build_id], []) == [left.build_id]
            await until(lambda: bench.pod(left) is None, "the other's pod is gone")
            assert bench.pod(kept) is not None
            await builder.discard(kept)


class TestWhatGoesAway:
    async def test_the_registry_refuses_and_is_named(self, bench: BuildBench, cluster_registry: RegistryServer) -> None:
        async with bench.builder() as builder:
            job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 4; date > /srv/x; :"))
            build = await builder.start(job)
            position, _ = await until_says(build, "ready")
            with cluster_registry.that_cannot_store():
                async for _ in build.follow(position):
                    pass
                outcome = await build.outcome()
            assert isinstance(outcome, BuildFailure)
            assert outcome.reason is FailureReason.REGISTRY, outcome
            await builder.discard(job)

    async def test_the_engine_goes_away_and_is_named(
        self, bench: BuildBench, cluster_registry: RegistryServer, base_image: str
    ) -> None:
        with ContainerEngine(insecure_registries=[cluster_registry.settings().host]) as engine:
            async with bench.builder(engine_socket=str(engine.socket)) as builder:
                job = bench.job(builder, bench.dockerfile("RUN echo ready; sleep 600"))
                build = await builder.start(job)
                position, _ = await until_says(build, "ready")
                await asyncio.to_thread(engine.stop)
                async for _ in build.follow(position):
                    pass
                outcome = await build.outcome()
                assert isinstance(outcome, BuildFailure)
                assert outcome.reason is FailureReason.ENGINE, outcome
                await builder.discard(job)
