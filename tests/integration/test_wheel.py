"""What is packaged is whole: installed from the wheel, everything that Replay needs at run time is there."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.requirements import ROOT

PACKAGES = ("replay_auth", "replay_spawner", "replay_build_service")

ENTRY_POINTS = """
import importlib.metadata, sys
(replay,) = importlib.metadata.distributions(name="jupyterhub-replay", path=[sys.argv[1]])
for entry in sorted(replay.entry_points):
    print(entry.group, entry.name, entry.load().__name__, sys.modules[entry.module].__file__)
"""


def wheel_of(project: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel brings."""
    folder = tmp_path_factory.mktemp("wheel")
    done = wheel_of(ROOT, folder)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run_installed(installed: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("pages")
def test_the_wheel_has_every_file_of_the_packages(installed: Path) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and "frontend" not in path.parts
    }
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert sources <= found, sources - found
    assert {
        "replay_build_service/web/static/dist/launch.js",
        "replay_spawner/lab/labextensions/replay-session/session.js",
        "replay_build_service/db/migrations/script.py.mako",
    } <= sources
    assert {Path(name).parts[0] for name in found - sources} == {"jupyterhub_replay-0.1.0.dist-info"}


@pytest.mark.needs("pages")
def test_its_entry_points_load(installed: Path, tmp_path: Path) -> None:
    loaded = run_installed(installed, tmp_path, "-c", ENTRY_POINTS, str(installed)).splitlines()
    assert [line.split()[:3] for line in loaded] == [
        ["replay.features", "datahub", "DataHub"],
        ["jupyterhub.authenticators", "egi-checkin", "EGICheckinAuthenticator"],
        ["console_scripts", "replay-auth", "main"],
        ["console_scripts", "replay-build-service", "main"],
        ["jupyterhub.spawners", "replay-docker", "ReplayDockerSpawner"],
        ["jupyterhub.spawners", "replay-kubernetes", "ReplayKubeSpawner"],
        ["jupyterhub.spawners", "replay-local", "ReplayLocalSpawner"],
        ["replay.features", "token", "AccessToken"],
    ]
    assert all(line.split()[3].startswith(str(installed)) for line in loaded), loaded


@pytest.mark.needs("pages")
def test_its_migrations_make_a_database(installed: Path, tmp_path: Path) -> None:
    assert "to 0005" in run_installed(installed, tmp_path, "-m", "replay_build_service.app", "upgrade-db")


def test_without_the_scripts_of_the_pages_no_wheel_is_made(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, project / package, ignore=shutil.ignore_patterns("dist", "session.js", "__pycache__")
        )
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    done = wheel_of(project, tmp_path / "wheels")
    assert done.returncode != 0
    assert "there is no replay_build_service/web/static/dist/launch.js" in done.stderr
    assert "replay-session/session.js" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.whl"))
