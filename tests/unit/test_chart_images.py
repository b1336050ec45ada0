"""The Dockerfiles of the chart's images, and the locks that they install from."""

import re
from pathlib import Path

import pytest

from tests.requirements import ROOT
from tests.unit.chart_rendering import CHART

pytestmark = pytest.mark.hub_independent

IMAGES = ("builder", "service", "hub")


def dockerfile(image: str) -> str:
    return (CHART / "images" / image / "Dockerfile").read_text()


def stage(image: str, name: str) -> str:
    """A stage's instructions."""
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", dockerfile(image), re.DOTALL | re.MULTILINE)
    assert found, name
    return "\n".join(line for line in found[1].splitlines() if line and not line.startswith("#"))


def locked(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_without_asking_for_another_frontend(image: str) -> None:
    text = dockerfile(image)
    assert "syntax=" not in text
    assert re.search(r"^ARG BASE=\S+:\S+$", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}"] * text.count("FROM ${BASE}")


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_installed_is_locked(image: str) -> None:
    text = dockerfile(image)
    # Continued lines are one.
    for command in re.findall(r"pip install[^\n]*", text.replace("\\\n", " ")):
        assert "--require-hashes" in command or "--no-index --no-deps" in command, command


def test_stages_that_are_the_same_stay_the_same() -> None:
    assert len({stage(image, "wheel") for image in IMAGES}) == 1
    assert stage("builder", "environment") == stage("service", "environment")
    ignored = {(CHART / "images" / image / "Dockerfile.dockerignore").read_text() for image in IMAGES}
    assert len(ignored) == 1


def test_the_service_is_nobody_special_in_its_image_either() -> None:
    assert dockerfile("service").rstrip().splitlines()[-3] == "USER 1000:1000"


def test_images_run_what_was_tested() -> None:
    """That of JupyterHub 5, which Zero to JupyterHub has; all else is as in both."""
    images, tested = locked(ROOT / "requirements" / "kubernetes.txt"), locked(ROOT / "requirements" / "hub55.txt")
    assert {name: version for name, version in images.items() if tested.get(name) != version} == {}
    newer = locked(ROOT / "requirements" / "dev.txt")
    assert images["jupyter-repo2docker"] == newer["jupyter-repo2docker"]
    build = locked(ROOT / "requirements" / "build.txt")
    assert {name: version for name, version in build.items() if newer.get(name) != version} == {}
