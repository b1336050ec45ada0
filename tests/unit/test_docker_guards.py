"""What keeps builds with a container engine apart: frontends, policies, steps that look alike, control groups."""

from dataclasses import replace
from pathlib import Path

import pytest

from replay_build_service.builders.detached.commands import BuildCommands
from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.folder import BuildFolder
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.docker.cgroup import BuildGroup, GroupClaim, remove_idle_groups
from replay_build_service.builders.docker.instructions import command_line
from replay_build_service.builders.docker.steps import ImageSteps, check_checkout
from tests.unit.test_docker_parts import JOB


@pytest.mark.parametrize(
    ("text", "is_run"),
    [
        ("FROM x\n", True),
        ("# syntax=docker/dockerfile:1\nFROM x\n", True),
        ("# syntax=docker.io/docker/dockerfile\nFROM x\n", True),
        ("# syntax=docker/dockerfile:1.4\nFROM x\n", True),
        ("# syntax=docker/dockerfile:1.12.1-labs\nFROM x\n", True),
        # Before control groups and caches of one's own.
        ("# syntax=docker/dockerfile:1.0\nFROM x\n", False),
        ("# syntax=docker/dockerfile:1.3-labs\nFROM x\n", False),
        ("# syntax=docker/dockerfile:1.0-experimental\nFROM x\n", False),
        (f"# syntax=docker/dockerfile@sha256:{'a' * 64}\nFROM x\n", False),
        ("# syntax=docker/dockerfile-upstream:1\nFROM x\n", False),
        # The engine leaves out a first line like this one before it looks for JSON.
        ('#!x\n{"syntax": "evil.example.org/f"}\n', False),
        ("#!x\n# syntax=evil.example.org/f\n", False),
        ('#! a\rb\n{"syntax": "evil.example.org/f"}\n', False),
    ],
)
def test_only_frontends_that_keep_to_limits_are_run(tmp_path: Path, text: str, is_run: bool) -> None:
    (tmp_path / "Dockerfile").write_bytes(text.encode())
    if is_run:
        check_checkout(tmp_path)
    else:
        with pytest.raises(Unbuildable, match="asks for a frontend"):
            check_checkout(tmp_path)


def test_a_dockerfile_that_is_a_link_is_refused_since_the_engine_would_follow_it_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "binder").mkdir()
    (tmp_path / "x").write_text("FROM x\n")
    (tmp_path / "binder" / "x").write_text("# syntax=evil.example.org/f\n")
    (tmp_path / "binder" / "Dockerfile").symlink_to("../x")
    with pytest.raises(Unbuildable, match=r"binder/Dockerfile is a link, which is not followed\."):
        check_checkout(tmp_path)


@pytest.mark.parametrize("folder", ["", "binder", ".binder"])
def test_a_policy_is_not_run(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "Dockerfile.rego").write_text("package docker\n")
    with pytest.raises(Unbuildable, match="is a policy for builds"):
        check_checkout(tmp_path)


def hostnames(folder: Path, repository: str, version: str) -> list[str]:
    """What the steps of a checkout in that folder are told apart by."""
    job = replace(JOB, repository=repository, version=version)
    steps = ImageSteps(BuildFolder(folder), job, BuildCommands(LogWriter(folder / "log"), 1, None), {})
    words = command_line(job, "/b/config.py", "/b/src", steps_of=steps._whose_steps())
    return [word for word in words if word.startswith("BUILDKIT_SANDBOX_HOSTNAME=")]


@pytest.mark.parametrize("place", ["", "binder", ".binder"])
@pytest.mark.parametrize(
    ("dockerfile", "alike"),
    [
        (None, {"a1", "a2", "b1"}),
        ("FROM x\nRUN make\n", {"a1", "a2"}),
        # A host may serve a fork's commit as the repository's, and what a cache holds tells steps apart for nobody.
        ("FROM x\nRUN --mount=type=cache,id=p,target=/c make\n", {"a1"}),
        ("FROM x\nRUN --mount=TYPE = cache,target=/c make\n", {"a1"}),
    ],
    ids=["buildpack", "Dockerfile", "cache", "cache, spelled otherwise"],
)
def test_steps_are_taken_for_the_same_only_where_nobody_else_can_have_planted_them(
    tmp_path: Path, place: str, dockerfile: str | None, alike: set[str]
) -> None:
    (tmp_path / "src" / place).mkdir(parents=True)
    if dockerfile is not None:
        (tmp_path / "src" / place / "Dockerfile").write_text(dockerfile)
    told = {
        f"{name}{number}": hostnames(tmp_path, f"https://x/{name}", number * 40) for name in "ab" for number in "12"
    }
    assert all(len(found) == (dockerfile is not None) for found in told.values())
    assert {name for name in ("a1", "a2", "b1") if told[name] == told["a1"]} == alike


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    """A place for groups, as the present version of control groups has it, and one for their locks."""
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").touch()
    return root, tmp_path / "locks"


def test_builds_at_the_same_time_have_groups_of_their_own_and_the_next_one_has_the_first_again(
    groups: tuple[Path, Path],
) -> None:
    first, second = GroupClaim.first_free(*groups), GroupClaim.first_free(*groups)
    assert (first.group.engine_name, second.group.engine_name) == ("/replay-builds/1", "/replay-builds/2")
    first.release()
    first.release()
    assert GroupClaim.first_free(*groups).group.name == "1"


def test_a_group_in_which_something_still_runs_is_nobodys(groups: tuple[Path, Path]) -> None:
    killed = GroupClaim.first_free(*groups)
    killed.group.create(1000, None)
    step = groups[0] / "replay-builds" / "1" / "step"
    step.mkdir()
    (step / "cgroup.procs").write_text("17\n")
    killed.release()
    assert GroupClaim.first_free(*groups).group.name == "2"
    remove_idle_groups(*groups)
    assert step.exists()


def test_what_killed_builds_left_is_removed_and_what_runs_stays(groups: tuple[Path, Path]) -> None:
    """As far as a folder of files goes for one of the kernel's: empty groups."""
    root, _ = groups
    remove_idle_groups(*groups)
    running, killed = GroupClaim.first_free(*groups), GroupClaim.first_free(*groups)
    for claim in (running, killed):
        (root / "replay-builds" / claim.group.name).mkdir(parents=True)
    killed.release()
    remove_idle_groups(*groups)
    assert [path.name for path in (root / "replay-builds").iterdir()] == [running.group.name]


def test_where_there_are_no_control_groups_there_is_nothing_of_them(tmp_path: Path) -> None:
    group = BuildGroup("1", tmp_path / "none")
    assert not group.has_processes()
    group.remove()
