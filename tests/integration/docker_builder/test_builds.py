"""The docker builder for real: an engine, a registry, repo2docker, detached processes that are killed and found again."""

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import stamina

from demo.git_server import GitServer
from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.messages import DISK_FULL
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.domain import BuildFailure, FailureReason, Phase, RunnableImage
from replay_build_service.registry import Registry
from tests.containers.builds import (
    BASE,
    Maker,
    built,
    dockerfile,
    failed,
    job_for,
    lines,
    log_of,
    phases,
    until_line,
)
from tests.containers.engine import ContainerEngine
from tests.registry_server import RegistryServer

pytestmark = [pytest.mark.needs("engine", "registry"), pytest.mark.hub_independent]


class TestWhatIsBuilt:
    async def test_an_image_is_pushed_and_known_by_the_registrys_digest(
        self, forge: GitServer, engine: ContainerEngine, builder: DockerBuilder, registry_server: RegistryServer
    ) -> None:
        value = secrets.token_hex(8)
        job = job_for(forge, builder, {"Dockerfile": dockerfile("COPY value /value"), "value": value})
        image, log = await built(builder, job)
        assert phases(log) == [Phase.FETCHING, Phase.BUILDING, Phase.PUSHING]
        name, _, digest = image.location.partition("@")
        async with Registry(registry_server.settings()) as registry:
            repository = name.removeprefix(f"{registry_server.settings().host}/")
            found = await registry.manifest(repository, job.image_name.tag)
        assert found is not None
        assert found.digest == digest
        assert await builder.exists(image)
        assert engine.docker("run", "--rm", image.location, "cat", "/value") == value

    async def test_without_a_registry_an_image_is_known_by_its_id(
        self, forge: GitServer, engine: ContainerEngine, settings: DockerBuilderSettings, make_builder: Maker
    ) -> None:
        builder = await make_builder(settings, with_registry=False)
        value = secrets.token_hex(8)
        job = job_for(forge, builder, {"Dockerfile": dockerfile("COPY value /value"), "value": value})
        image, log = await built(builder, job)
        assert phases(log) == [Phase.FETCHING, Phase.BUILDING]
        assert image.location == engine.image_id(str(job.image_name))
        assert engine.docker("run", "--rm", image.location, "cat", "/value") == value
        assert await builder.exists(image)
        engine.docker("rmi", str(job.image_name))
        assert not await builder.exists(image)

    @pytest.mark.parametrize("with_registry", [True, False], ids=["registry", "no registry"])
    async def test_an_engine_whose_images_containerd_keeps_is_as_good(
        self, forge: GitServer, settings: DockerBuilderSettings, make_builder: Maker, with_registry: bool
    ) -> None:
        with ContainerEngine(with_network=False, containerd_store=True) as newer:
            newer.import_base(BASE)
            own = replace(settings, engine=newer.host, docker_config=newer.config_folder, network="none")
            builder = await make_builder(own, with_registry=with_registry)
            value = secrets.token_hex(8)
            job = job_for(forge, builder, {"Dockerfile": dockerfile("COPY value /value"), "value": value})
            image, _ = await built(builder, job)
            assert newer.docker("run", "--rm", "--network", "none", image.location, "cat", "/value") == value
            assert (await builder.session(image)).configuration is not None
            assert await builder.exists(image)

    async def test_the_image_says_where_it_comes_from(
        self, forge: GitServer, engine: ContainerEngine, builder: DockerBuilder
    ) -> None:
        job = job_for(forge, builder, {"Dockerfile": dockerfile()})
        image, _ = await built(builder, job)
        labels = json.loads(engine.docker("image", "inspect", "--format", "{{json .Config.Labels}}", image.location))
        assert labels["repo2docker.ref"] == job.resolved.version
        assert labels["repo2docker.repo"] == job.resolved.repository.url

    async def test_nothing_of_a_finished_build_is_left_but_its_image(
        self, forge: GitServer, builder: DockerBuilder
    ) -> None:
        job = job_for(forge, builder, {"Dockerfile": dockerfile()})
        image, _ = await built(builder, job)
        await builder.tidy(job)
        assert list(builder.settings.builds_dir.iterdir()) == []
        assert await builder.exists(image)
        assert (await builder.session(image)).configuration is not None

    async def test_a_step_that_says_very_much_right_before_the_end_makes_its_image(
        self, forge: GitServer, builder: DockerBuilder
    ) -> None:
        """The more there is to be told at the end, the likelier BuildKit's client gives up; see ``has_lost_the_end``."""
        image, log = await built(builder, job_for(forge, builder, {"Dockerfile": dockerfile("RUN seq 1 1000000; :")}))
        assert await builder.exists(image)
        assert len(lines(log)) > 1000

    async def test_binder_comes_before_the_root(
        self, forge: GitServer, engine: ContainerEngine, builder: DockerBuilder
    ) -> None:
        files = {"Dockerfile": dockerfile("RUN false"), "binder/Dockerfile": dockerfile("RUN echo here > /here")}
        image, _ = await built(builder, job_for(forge, builder, files))
        assert engine.docker("run", "--rm", image.location, "cat", "/here") == "here"

    async def test_the_configuration_of_the_image_is_in_the_plan(
        self, forge: GitServer, builder: DockerBuilder
    ) -> None:
        text = dockerfile(
            "ENV HOME=/srv/home", "WORKDIR /srv/work", 'ENTRYPOINT ["/bin/env"]', 'CMD ["sleep", "1"]', "EXPOSE 9999"
        )
        image, _ = await built(builder, job_for(forge, builder, {"Dockerfile": text}))
        found = (await builder.session(image)).configuration
        assert found is not None
        assert (found.user, found.home, found.working_dir) == ("1000", "/srv/home", "/srv/work")
        assert (found.entrypoint, found.command, found.exposed_ports) == (("/bin/env",), ("sleep", "1"), ("9999/tcp",))


FAILURES = [
    pytest.param({"Dockerfile": dockerfile("RUN echo so-it-goes; exit 3")}, {}, FailureReason.STEP, "status 3: echo so-it-goes", id="a step that fails"),
    pytest.param({"Dockerfile": "FROMM nothing\n"}, {}, FailureReason.CANNOT_BUILD, "Dockerfile cannot be read", id="no Dockerfile"),
    pytest.param({"Dockerfile": "FROM replay-test/nowhere:1\n"}, {}, FailureReason.CANNOT_BUILD, "replay-test/nowhere:1, cannot be had", id="no base"),
    pytest.param({"Dockerfile": f"FROM {BASE}\n"}, {}, FailureReason.CANNOT_BUILD, "would run as root", id="root"),
    pytest.param({"Dockerfile": dockerfile("RUN echo MARK; sleep MARK; :")}, {"time_limit": 10}, FailureReason.TIMEOUT, "took longer than 10 s", id="hangs"),
    pytest.param({"Dockerfile": dockerfile("RUN yes MARK | head -c 1000000000")}, {"output_limit": 1_000_000}, FailureReason.OUTPUT_LIMIT, "printed more than 1 MB", id="prints 1 GB"),
    pytest.param({"Dockerfile": dockerfile('RUN python3 -c "bytearray(600_000_000)"')}, {"memory_limit": 300_000_000}, FailureReason.MEMORY, "more than 300 MB of memory", id="memory"),
    pytest.param({"Dockerfile": dockerfile("RUN bomb() { bomb | bomb & }; bomb; sleep 2; false")}, {"process_limit": 100}, FailureReason.STEP, "100 processes", id="forks without end"),
    pytest.param({"Dockerfile": dockerfile("RUN echo MARK; head -c 3000000000 /dev/zero > /big; sleep MARK; :")}, {"disk_limit": 500_000_000}, FailureReason.DISK, "more than 500 MB to the disk", id="fills the disk"),
    # More than any disk has free.
    pytest.param({"Dockerfile": dockerfile("RUN sleep 600; :")}, {"free_disk": 10**15}, FailureReason.DISK, DISK_FULL.message, id="leaves too little of the disk"),
    pytest.param({"Dockerfile": "->/etc/passwd"}, {}, FailureReason.CANNOT_BUILD, "Dockerfile is a link that leads out", id="a link out"),
    pytest.param({"binder": "->/etc"}, {}, FailureReason.CANNOT_BUILD, "binder is a link that leads out", id="a folder out"),
    pytest.param({"requirements.txt": "#" * 2_000_000}, {}, FailureReason.CANNOT_BUILD, "at most 1 MB", id="a huge file"),
    # The promise is about a repository of 10 GB: it is tried here at a scale of 1:500, by its limit.
    pytest.param({"Dockerfile": dockerfile(), "zeros": "0" * 30_000_000}, {"repository_limit": 20_000_000}, FailureReason.FETCH, "larger than 20 MB", id="a repository that unpacks to much"),
    pytest.param({"Dockerfile": dockerfile(), "big": secrets.token_hex(15_000_000)}, {"repository_limit": 20_000_000}, FailureReason.FETCH, "larger than 20 MB", id="a large repository"),
]  # fmt: skip
"""MARK is a number that no other program has among its words: by it the step is found on the machine."""


class TestWhatFails:
    @pytest.mark.parametrize(("files", "limits", "reason", "words"), FAILURES)
    async def test_it_ends_in_a_sentence_and_a_clean_state(
        self, forge: GitServer, engine: ContainerEngine, settings: DockerBuilderSettings, make_builder: Maker,
        files: dict[str, str], limits: dict[str, int], reason: FailureReason, words: str,
    ) -> None:  # fmt: skip
        builder = await make_builder(replace(settings, **limits))
        mark = f"8{secrets.randbelow(10**8):08d}"
        job = job_for(forge, builder, {name: text.replace("MARK", mark) for name, text in files.items()})
        failure, log = await failed(builder, job)
        assert (failure.reason, words in failure.message) == (reason, True), (failure, lines(log)[-20:])
        if "MARK" in files.get("Dockerfile", ""):
            assert any(line.endswith(f" {mark}") for line in lines(log)), "the step ran"
        await builder.discard(job)
        await nothing_runs(mark)
        assert list(settings.builds_dir.iterdir()) == []
        assert engine.docker("image", "ls", "--quiet", builder.full_name(job.image_name)) == ""

    @pytest.mark.needs("disk")
    async def test_a_full_disk_ends_in_a_sentence_and_what_was_built_before_still_works(
        self, forge: GitServer, settings: DockerBuilderSettings, make_builder: Maker, tmp_path: Path
    ) -> None:
        with a_disk(tmp_path, 1_500_000_000) as disk, ContainerEngine(with_network=False, data=disk) as small:
            small.import_base(BASE)
            own = replace(
                settings,
                engine=small.host,
                docker_config=small.config_folder,
                network="none",
                free_disk=0,
                disk_limit=None,
            )
            builder = await make_builder(own)
            before, _ = await built(
                builder, job_for(forge, builder, {"Dockerfile": dockerfile("RUN echo so > /before")})
            )
            job = job_for(forge, builder, {"Dockerfile": dockerfile("RUN head -c 3000000000 /dev/zero > /big")})
            failure, _ = await failed(builder, job)
            assert (failure.reason, "is full" in failure.message) == (FailureReason.DISK, True), failure
            await builder.discard(job)
            # The engine clears away what the step has written soon after its end, and tells nobody.
            async for attempt in stamina.retry_context(on=AssertionError, timeout=10, wait_max=0.1, attempts=None):
                with attempt:
                    assert shutil.disk_usage(disk).free > 500_000_000
            assert await builder.exists(before)
            # The engine gives the room of a step that failed back when it comes to it.
            async for attempt in stamina.retry_context(on=AssertionError, timeout=30, wait_max=0.5, attempts=None):
                with attempt:
                    told = small.docker("run", "--rm", "--network", "none", before.location, "cat", "/before")
            assert told == "so"
            again, _ = await built(
                builder, job_for(forge, builder, {"Dockerfile": dockerfile("RUN echo after > /after")})
            )
            assert await builder.exists(again), "there is room again"

    async def test_what_a_terminal_would_obey_is_not_shown(self, forge: GitServer, builder: DockerBuilder) -> None:
        text = dockerfile(r"RUN printf 'x\033]0;title\007y\033[31mred\033[0m caf\351 \033[2J\n'")
        _, log = await built(builder, job_for(forge, builder, {"Dockerfile": text}))
        # No name or digest of an image, which are of hexadecimal digits, has that sign.
        shown = [line for line in lines(log) if "caf�" in line and "RUN" not in line]
        assert [line.partition(" ")[2].partition(" ")[2] for line in shown] == ["xy\x1b[31mred\x1b[0m caf� "]


class TestWhatIsLeft:
    async def test_a_start_removes_what_builds_left_that_nobody_knows(
        self, forge: GitServer, engine: ContainerEngine, settings: DockerBuilderSettings, make_builder: Maker
    ) -> None:
        builder = await make_builder(settings)
        jobs = {name: job_for(forge, builder, {"Dockerfile": dockerfile()}) for name in ("unknown", "kept")}
        for job in jobs.values():
            await built(builder, job)
        (settings.builds_dir / "of-the-admins").mkdir()
        waits = job_for(forge, builder, {"Dockerfile": dockerfile("RUN echo ready; sleep 600; :")})
        running = await builder.start(waits)
        await until_line(running, "ready")
        swept = await (await make_builder(settings)).sweep({waits.build_id}, {jobs["kept"].build_id})
        assert sorted(swept) == sorted(job.build_id for job in jobs.values())
        assert {path.name for path in settings.builds_dir.iterdir()} == {waits.build_id, "of-the-admins"}
        tags = {
            name: engine.docker("image", "ls", "-q", builder.full_name(job.image_name)) for name, job in jobs.items()
        }
        assert (tags["unknown"], bool(tags["kept"])) == ("", True)
        await running.cancel()


class TestItsEnd:
    async def test_cancelling_ends_everything_in_the_engine(self, forge: GitServer, builder: DockerBuilder) -> None:
        mark = f"6{secrets.randbelow(10**8):08d}"
        text = dockerfile(f"RUN (setsid sleep {mark} &) ; echo ready; sleep {mark}; :")
        build = await builder.start(job_for(forge, builder, {"Dockerfile": text}))
        await until_line(build, "ready")
        assert running(mark)
        await build.cancel()
        outcome = await build.outcome()
        assert isinstance(outcome, BuildFailure)
        assert outcome.reason is FailureReason.CANCELLED
        await nothing_runs(mark)

    async def test_a_service_that_comes_back_finds_the_build(
        self, forge: GitServer, settings: DockerBuilderSettings, make_builder: Maker
    ) -> None:
        text = dockerfile("RUN echo ready; sleep 3; echo done; :")
        first = await make_builder(settings)
        job = job_for(forge, first, {"Dockerfile": text})
        position = await until_line(await first.start(job), "ready")
        second = await make_builder(settings)
        build = await second.start(job)
        rest = await log_of(build, position)
        assert isinstance(await build.outcome(), RunnableImage)
        assert any(line.endswith(" done") for line in lines(rest))

    async def test_a_runner_that_was_killed_is_a_failure_and_leaves_nothing(
        self, forge: GitServer, builder: DockerBuilder
    ) -> None:
        mark = f"7{secrets.randbelow(10**8):08d}"
        job = job_for(forge, builder, {"Dockerfile": dockerfile(f"RUN echo ready; sleep {mark}; :")})
        build = await builder.start(job)
        await until_line(build, "ready")
        (runner,) = [
            pid
            for pid in psutil.process_iter()
            if "docker.runner" in " ".join(cmdline(pid)) and str(builder.settings.builds_dir) in " ".join(cmdline(pid))
        ]
        runner.kill()
        await log_of(build)
        outcome = await build.outcome()
        assert isinstance(outcome, BuildFailure)
        assert outcome.reason is FailureReason.KILLED
        await nothing_runs(mark)


@contextmanager
def a_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of that many bytes, of its own."""
    image, mount = folder / "disk.img", folder / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(("mkfs.ext4", "-q", "-F", str(image)), check=True)
    subprocess.run(("mount", "-o", "loop", str(image), str(mount)), check=True)
    try:
        yield mount
    finally:
        subprocess.run(("umount", "--lazy", str(mount)), check=True)
        image.unlink()


async def nothing_runs(mark: str) -> None:
    """The engine ends a step soon after nobody asks for it any more, and tells nobody."""
    async for attempt in stamina.retry_context(on=AssertionError, timeout=10, wait_max=0.1, attempts=None):
        with attempt:
            assert running(mark) == []


def running(mark: str) -> list[list[str]]:
    return [words for process in psutil.process_iter() if mark in " ".join(words := cmdline(process))]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
