"""A build in a pod against bare repo2docker on this machine, in turn."""

import asyncio
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks import containers
from benchmarks.cluster_bench import Bench, PodWatch
from benchmarks.containers import contents, environment_dockerfile, spread3, stock_build
from replay_build_service.builders.kubernetes.pods import BUILDER
from replay_build_service.domain import EventKind, Phase, RunnableImage
from tests.cluster.builds import BuildBench
from tests.site import make_repository

ROUNDS_OF_BUILDS = 3


@dataclass(frozen=True)
class Built:
    """One build in a pod: seconds."""

    taken: float
    """All of it: until the service knows the image."""
    pod_start: float
    """From the pod's making to its builder's running, as this machine heard of both."""
    until_phase: Mapping[str, float]
    """From the start to what the build itself said, ``end`` being its last word."""


async def our_build(builds: BuildBench, watch: PodWatch, files: Mapping[str, str]) -> Built:
    """By the builder as the service uses it."""
    async with builds.builder() as builder:
        job = builds.job(builder, files)
        phases: dict[str, float] = {}
        began, began_at = time.perf_counter(), time.time()
        build = await builder.start(job)
        async for chunk in build.follow(0):
            for record in chunk.records:
                if record.phase is not Phase.WAITING:
                    phases["end"] = record.at - began_at
                    if record.kind is EventKind.PHASE:
                        phases.setdefault(record.phase.value, record.at - began_at)
        outcome = await build.outcome()
        taken = time.perf_counter() - began
        if not isinstance(outcome, RunnableImage):
            raise RuntimeError(outcome.message)
        await builder.tidy(job)
        made, runs = watch.last_since(began)
        return Built(taken, runs - made, phases)


def measure_builds(made: Bench) -> str:
    """A build's pod against bare repo2docker on this machine, with the same engine, pushed to the same registry."""
    around, engine = made.namespaces(), made.sites.engine
    builds = BuildBench(
        around.cluster, made.kube, engine, around.registry, made.git, around.base_image, around.builder_image,
        around.builds, made.folder,
    )  # fmt: skip
    stock = containers.Bench(engine, around.registry, made.folder)
    ours: list[Built] = []
    bare: list[float] = []
    with PodWatch(made.kube, around.builds, BUILDER) as watch:
        for number in range(ROUNDS_OF_BUILDS + 1):
            for which in ("pod", "bare") if number % 2 == 0 else ("bare", "pod"):
                engine.docker("builder", "prune", "--all", "--force")
                files = {"Dockerfile": a_new_environment(around.base_image), **contents()}
                if which == "pod":
                    ours.append(asyncio.run(our_build(builds, watch, files)))
                    print(ours[-1], file=sys.stderr)
                else:
                    name = f"bare-{secrets.token_hex(4)}"
                    bare.append(stock_build(stock, make_repository(made.git, made.folder / name, name, files)))
                    print(f"bare repo2docker: {bare[-1]:.2f}", file=sys.stderr)
    # The first one of each had the builder's image to fetch, and files to read from the disk.
    del ours[0], bare[0]
    start = median(one.pod_start for one in ours)
    said = {name: median(one.until_phase[name] for one in ours) for name in ours[0].until_phase}
    return f"""### Builds in a pod, {ROUNDS_OF_BUILDS} interleaved rounds, nothing cached, pushed

| | seconds |
| --- | --- |
| a build's pod, all of it | {spread3([one.taken for one in ours])} |
| of that, the pod's start | {spread3([one.pod_start for one in ours])} |
| bare repo2docker | {spread3(bare)} |

Without the pod's start, ratio of the medians: **{(median(one.taken for one in ours) - start) / median(bare):.2f}** (asked: at
most 1.1); with it, {median(one.taken for one in ours) / median(bare):.2f}. From the start until the build said so, medians:
{", ".join(f"{name} {seconds:.1f} s" for name, seconds in said.items())}.
"""


def a_new_environment(base: str) -> str:
    """As a build with an engine has it, and never the same twice."""
    return environment_dockerfile(base).replace("RUN python3", f"RUN echo {secrets.token_hex(8)}; python3")
