"""What a machine can run, and the one rule for what it cannot: a named skip, or with ``REPLAY_TEST_REQUIRE`` a failure."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.containers.fixtures import container_engine, container_site, image_registry, new_container_site  # noqa: F401
from tests.requirements import REQUIRED, known_requirements, missing, unknown_requirements
from tests.site import Site, Sites

_LEFT_OUT = pytest.StashKey[int]()


def pytest_configure() -> None:
    if unknown := unknown_requirements():
        raise pytest.UsageError(
            f"REPLAY_TEST_REQUIRE names {', '.join(unknown)}. The names are: {', '.join(known_requirements())}."
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What asks the real world is chosen by ``REPLAY_TEST_LIVE=1``; otherwise it is no test of this run, rather than skipped."""
    if os.environ.get("REPLAY_TEST_LIVE") != "1":
        live = [item for item in items if item.get_closest_marker("live")]
        items[:] = [item for item in items if not item.get_closest_marker("live")]
        if live:
            config.hook.pytest_deselected(items=live)


def pytest_report_header() -> str:
    return f"JupyterHub {version('jupyterhub')}: that of the interpreter, and the one that all hubs here run"


# pytest-xdist's workers choose the tests, and it does not tell how many they left out.
def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    if not items:  # --last-failed tells of those, too
        return
    output = getattr(items[0].config, "workeroutput", {})
    output["deselected"] = output.get("deselected", 0) + len(items)


class _OneEngineAtATime(LoadFileScheduling):
    """A file's tests stay together, and so do all that start hubs and a container engine: on a small machine two engines,
    each with servers of its own, would make them late. Those that only build may go on beside them."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        text = _text(self.config.rootpath / file)
        if '"engine"' not in text:
            return file
        return "builds with an engine" if "hub_independent" in text else "servers with an engine"


@cache
def _text(file: Path) -> str:
    return file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _OneEngineAtATime(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("deselected", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if left_out := terminalreporter.config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"{left_out} tests deselected")


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told when it happens: of a run that is ended before its summary, something is known."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid} failed ({report.when}):\n{report.longreprtext[-4000:]}\n", flush=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            reason = missing(name)
            if reason is None:
                continue
            if name in REQUIRED:
                pytest.fail(f"{name} is required: {reason}", pytrace=False)
            pytest.skip(f"{name}: {reason}")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Makes whole sites: hub, service, stand-ins. All end with the file of tests."""
    with Sites(tmp_path_factory.mktemp("sites")) as made:
        yield made


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site with the reference configuration, shared by tests that leave it as they found it."""
    with Sites(tmp_path_factory.mktemp("shared-site")) as made:
        yield made.start()


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """A site of the test's own, for tests that kill, stop or reconfigure it."""
    with Sites(tmp_path / "sites") as made:
        yield made.start
    shutil.rmtree(tmp_path / "sites", ignore_errors=True)
