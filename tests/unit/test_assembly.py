"""From settings to a builder: what cannot work is told at the start, and an engine that is away is no reason to stay away."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from replay_build_service.app import ReplayBuildService
from replay_build_service.assembly import UnusableSettings, make_builder
from replay_build_service.builders.docker.cgroup import BuildGroup
from replay_build_service.builders.docker.instructions import Instructions
from replay_build_service.builders.venv.builder import VenvBuilder
from tests.unit.test_docker_parts import DIGEST, JOB

PINNED = f"base@{DIGEST}"


@pytest.fixture
async def resources() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``PATH`` of the test's own, with a ``docker`` that says yes to everything."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "docker"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def settings(tmp_path: Path, **more: Any) -> ReplayBuildService:
    given = {"builder": "docker", "docker_host": f"unix://{tmp_path}/none.sock", "base_image": PINNED, **more}
    return ReplayBuildService(**given)


@pytest.mark.parametrize(
    ("given", "limit", "python"),
    [
        ({}, None, f"{sys.version_info.major}.{sys.version_info.minor}"),
        ({"build_memory_limit": "4G", "default_python": "3.13"}, 4 * 1024**3, "3.13"),
    ],
    ids=["default", "set"],
)
async def test_by_default_it_is_environments_with_the_settings_of_builds(
    tmp_path: Path, resources: AsyncExitStack, given: dict[str, str], limit: int | None, python: str
) -> None:
    builder = await make_builder(ReplayBuildService(**given), tmp_path, resources)
    assert isinstance(builder, VenvBuilder)
    assert (builder.settings.memory_limit, builder.settings.default_python) == (limit, python)


async def test_the_base_image_is_part_of_the_recipe(tmp_path: Path, resources: AsyncExitStack, commands: Path) -> None:
    builder = await make_builder(settings(tmp_path), tmp_path, resources)
    assert ("base_image", PINNED) in builder.recipe.parameters


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"docker_host": "tcp:nowhere"}, "docker_host: .* should read"),
        ({"build_network": "builds"}, "build_network: builds know the networks default, none, host and no 'builds'"),
        ({"registry": "registry.example.org"}, "registry should read https"),
        (
            {"build_memory_limit": 2**30, "build_cgroup_parent": "replay.slice"},
            "with limits of your own: set them there",
        ),
        ({"build_memory_limit": 2**30, "docker_host": "tcp://127.0.0.1:1"}, "cannot be set on this engine"),
        ({"base_image": "name:tag"}, "does not answer properly"),
        ({"base_image": "", "repo2docker_config": "raises.py"}, "raises.py cannot be used: .*on purpose"),
        ({"base_image": "", "repo2docker_config": "missing.py"}, "missing.py cannot be used"),
    ],
)
async def test_what_cannot_work_is_told(
    tmp_path: Path, resources: AsyncExitStack, commands: Path, more: dict[str, Any], words: str
) -> None:
    (tmp_path / "raises.py").write_text("raise ValueError('on purpose')\n")
    if "repo2docker_config" in more:
        more = {**more, "repo2docker_config": str(tmp_path / more["repo2docker_config"])}
    with pytest.raises(UnusableSettings, match=words):
        await make_builder(settings(tmp_path, **more), tmp_path, resources)


async def test_without_the_engines_commands_it_is_told_what_to_install(
    tmp_path: Path, resources: AsyncExitStack, commands: Path
) -> None:
    (commands / "docker").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(UnusableSettings, match="docker buildx"):
        await make_builder(settings(tmp_path), tmp_path, resources)


async def test_an_engine_that_is_away_at_a_start_leaves_the_base_image_as_it_was(
    tmp_path: Path, resources: AsyncExitStack, commands: Path
) -> None:
    (tmp_path / "base_image").write_text(f"name:tag {PINNED}\n")
    builder = await make_builder(settings(tmp_path, base_image="name:tag"), tmp_path, resources)
    assert ("base_image", PINNED) in builder.recipe.parameters
    with pytest.raises(UnusableSettings):
        await make_builder(settings(tmp_path, base_image="another:tag"), tmp_path, resources)


class TestControlGroups:
    """Their files, in a folder: what the kernel does with them is tried by builds."""

    def test_the_present_version(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.controllers").touch()
        group = BuildGroup("b1", tmp_path)
        group.create(1000, 50)
        folder = tmp_path / "replay-builds" / "b1"
        written = {path.name: path.read_text() for path in folder.iterdir()}
        assert written == {"memory.max": "1000", "memory.swap.max": "0", "pids.max": "50"}
        assert (tmp_path / "replay-builds" / "cgroup.subtree_control").read_text() == "+memory +pids"
        assert (group.has_hit_memory(), group.has_hit_processes(), group.has_processes()) == (False, False, False)
        (folder / "memory.events").write_text("oom 0\noom_kill 2\n")
        (folder / "pids.events").write_text("max 3\n")
        (folder / "buildkit" / "x").mkdir(parents=True)
        (folder / "buildkit" / "x" / "cgroup.procs").write_text("17\n")
        assert (group.has_hit_memory(), group.has_hit_processes(), group.has_processes()) == (True, True, True)

    def test_the_older_version(self, tmp_path: Path) -> None:
        for name in ("memory", "pids", "cpu"):
            (tmp_path / name).mkdir()
        group = BuildGroup("b1", tmp_path)
        group.create(1000, 50)
        memory, processes = tmp_path / "memory/replay-builds/b1", tmp_path / "pids/replay-builds/b1"
        assert (memory / "memory.limit_in_bytes").read_text() == "1000"
        assert (processes / "pids.max").read_text() == "50"
        (memory / "memory.max_usage_in_bytes").write_text("500")
        (processes / "pids.peak").write_text("49")
        assert (group.has_hit_memory(), group.has_hit_processes()) == (False, False)
        (memory / "memory.max_usage_in_bytes").write_text("1000")
        (processes / "pids.peak").write_text("50")
        assert (group.has_hit_memory(), group.has_hit_processes()) == (True, True)

    def test_a_group_that_never_was_says_no_and_goes_without_an_error(self, tmp_path: Path) -> None:
        group = BuildGroup("b1", tmp_path)
        assert (group.has_hit_memory(), group.has_hit_processes(), group.has_processes()) == (False, False, False)
        group.remove()


async def test_a_sweep_while_the_engine_is_away_removes_folders_and_logs_what_the_engine_still_has(
    tmp_path: Path, resources: AsyncExitStack, commands: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder = await make_builder(settings(tmp_path), tmp_path, resources)
    for name, text in {"left": JOB.to_json(), "odd": "{", "runs": JOB.to_json()}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "job.json").write_text(text)
    assert await builder.sweep({"runs"}, ()) == ["left", "odd"]  # pyright: ignore[reportArgumentType]
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["runs"]
    assert Instructions.from_json((tmp_path / "images/runs/job.json").read_text()) == JOB
    told = sorted(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    odd, left = told
    assert odd.startswith(f"{tmp_path}/images/odd/job.json does not tell what was built: ")
    assert left.startswith(f"The engine still has {JOB.image}: ")
