"""The Dockerfiles of the chart's images, and the locks that they install from."""

import re
from pathlib import Path

import pytest

from tests.requirements import ROOT
from tests.unit.chart_rendering import CHART

pytestmark = pytest.mark.hub_independent

FILE = (CHART / "images" / "Dockerfile").read_text()


def locked(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", file.read_text(), re.MULTILINE))


def test_images_are_built_without_asking_for_another_frontend_or_base() -> None:
    assert "syntax=" not in FILE
    assert len(re.findall(r"^ARG (?:HUB_)?BASE=\S+:\S+$", FILE, re.MULTILINE)) == 2
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", FILE, re.MULTILINE)
    assert {base for base, _ in stages} <= {"${BASE}", "${HUB_BASE}", *(name for _, name in stages)}
    assert [name for _, name in stages][-3:] == ["builder", "service", "hub"]


def test_what_is_installed_is_locked() -> None:
    # Continued lines are one.
    commands = re.findall(r"pip install[^\n]*", FILE.replace("\\\n", " "))
    assert len(commands) == 5
    for command in commands:
        assert "--require-hashes" in command or "--no-index --no-deps" in command, command


def test_the_service_is_nobody_special_in_its_image_either() -> None:
    assert re.search(r"^FROM python AS service\nUSER 1000:1000$", FILE, re.MULTILINE)


def test_images_run_what_was_tested() -> None:
    """That of JupyterHub 5, which Zero to JupyterHub has; all else is as in both."""
    images, tested = locked(ROOT / "requirements" / "kubernetes.txt"), locked(ROOT / "requirements" / "hub55.txt")
    assert {name: version for name, version in images.items() if tested.get(name) != version} == {}
    newer = locked(ROOT / "requirements" / "dev.txt")
    assert images["jupyter-repo2docker"] == newer["jupyter-repo2docker"]
    build = locked(ROOT / "requirements" / "build.txt")
    assert {name: version for name, version in build.items() if newer.get(name) != version} == {}
