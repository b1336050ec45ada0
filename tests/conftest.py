"""What a machine can run, and the one rule for what it cannot: a named skip, or with ``REPLAY_TEST_REQUIRE`` a failure."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.requirements import HUB55_PYTHON, REQUIRED, known_requirements, missing, unknown_requirements
from tests.site import Site, Sites


def pytest_configure() -> None:
    if unknown := unknown_requirements():
        raise pytest.UsageError(
            f"REPLAY_TEST_REQUIRE names {', '.join(unknown)}. The names are: {', '.join(known_requirements())}."
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            reason = missing(name)
            if reason is None:
                continue
            if name in REQUIRED:
                pytest.fail(f"{name} is required: {reason}", pytrace=False)
            pytest.skip(f"{name}: {reason}")


@pytest.fixture(
    scope="session",
    params=["6.1", pytest.param("5.5", marks=pytest.mark.needs("hub55"))],
    ids=lambda version: f"hub-{version}",
)
def hub_python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of each supported JupyterHub."""
    return HUB55_PYTHON if request.param == "5.5" else Path(sys.executable)


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Makes whole sites: hub, service, stand-ins. All end with the session."""
    with Sites(tmp_path_factory.mktemp("sites")) as made:
        yield made


@pytest.fixture(scope="session")
def site(sites: Sites) -> Site:
    """One site with the reference configuration, shared by tests that leave it as they found it."""
    return sites.start()


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """A site of the test's own, for tests that kill, stop or reconfigure it."""
    with Sites(tmp_path / "sites") as made:
        yield made.start
    shutil.rmtree(tmp_path / "sites", ignore_errors=True)
