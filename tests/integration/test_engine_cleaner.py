"""The cleaner of builders' disks, on a real engine; and the chart's configuration of that engine."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from replay_build_service.builders.kubernetes.cleaner import Engine, clean, parse, used_percent
from tests.containers.engine import ContainerEngine
from tests.containers.site import until
from tests.containers.tools import engine_root
from tests.unit.chart_rendering import EVERYTHING, LEAST, one, render

pytestmark = [pytest.mark.needs("engine"), pytest.mark.hub_independent]

NOW = timedelta(0)
ALWAYS_FULL = lambda: 100.0  # noqa: E731


@pytest.fixture(scope="module")
def engine() -> Iterator[ContainerEngine]:
    with ContainerEngine(with_network=False) as started:
        yield started


@pytest.fixture
def cleaned(engine: ContainerEngine) -> Iterator[Engine]:
    engine.import_base("base:1")
    with Engine(engine.host) as asked:
        yield asked


def build(engine: ContainerEngine, tag: str, content: str) -> None:
    engine.build(tag, f"FROM base:1\nCOPY {content} /content\nCOPY {content} /copy\n", {content: content * 1000})


def tags(engine: ContainerEngine) -> set[str]:
    return set(engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())


def cache_of(engine: ContainerEngine) -> str:
    return engine.docker("builder", "du").splitlines()[-1].split()[-1]


def test_it_removes_what_no_container_has_and_the_cache_of_builds(engine: ContainerEngine, cleaned: Engine) -> None:
    build(engine, "runs:1", "a")
    build(engine, "ended:1", "b")
    build(engine, "unused:1", "c")
    engine.docker("tag", "unused:1", "unused:2")
    engine.docker("run", "--detach", "--network=none", "--name=runs", "runs:1", "sleep", "1000")
    engine.docker("run", "--network=none", "--name=ended", "ended:1", "true")
    assert cache_of(engine) != "0B"

    # For a moment after a build BuildKit still holds what that one used.
    until(lambda: not clean(cleaned, ALWAYS_FULL, 60, NOW) and cache_of(engine) == "0B", "the cache is empty")

    assert tags(engine) == {"runs:1", "ended:1"}
    assert engine.docker("inspect", "--format", "{{.State.Running}}", "runs") == "true"
    engine.docker("rm", "--force", "runs", "ended")


def test_the_oldest_goes_first_and_no_more_than_is_needed(engine: ContainerEngine, cleaned: Engine) -> None:
    for number in "123":
        build(engine, f"image:{number}", f"x{number}")

    assert clean(cleaned, lambda: 100 if "image:1" in tags(engine) else 50, 60, NOW)

    assert tags(engine) == {"image:2", "image:3"}


def test_what_came_a_moment_ago_stays_however_full_the_disk(engine: ContainerEngine, cleaned: Engine) -> None:
    build(engine, "young:1", "y")
    before = tags(engine)
    assert not clean(cleaned, ALWAYS_FULL, 60, timedelta(hours=1))
    assert tags(engine) == before


def test_it_looks_on_when_the_engine_is_away_and_ends_when_told(engine: ContainerEngine, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "replay_build_service.builders.kubernetes.cleaner", f"--engine=unix://{tmp_path}/none.sock",
        f"--data={engine.data_root}", "--start-percent=0.001", "--stop-percent=0", "--interval=0.2",
    ]  # fmt: skip
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert running.stderr
    seen = [running.stderr.readline() for _ in range(4)]
    running.send_signal(signal.SIGTERM)
    _, _ = running.communicate(timeout=20)
    assert running.returncode == 0
    assert ["cleaning" in line or "did not work" in line for line in seen] == [True] * 4, seen


def test_the_disk_is_as_full_as_df_says() -> None:
    told = subprocess.run(("df", "--output=pcent", "/"), capture_output=True, text=True, check=True).stdout
    assert abs(used_percent("/") - int(told.split()[-1].rstrip("%"))) <= 1.5


def test_it_must_stop_below_where_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--start-percent=60", "--stop-percent=60"])
    assert "lower percentage" in capsys.readouterr().err


@pytest.mark.parametrize("values", [LEAST, EVERYTHING], ids=["least", "everything"])
def test_the_engine_takes_the_charts_configuration(values: Mapping[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(one(render(values), "ConfigMap", "replay-engine")["data"]["daemon.json"])
    command = (f"{engine_root()}/usr/sbin/dockerd", "--validate", f"--config-file={config}")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
