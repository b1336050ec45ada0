"""What holds of the tests themselves."""

import subprocess
import sys

import pytest

from tests.requirements import ROOT

HUBS = {"sites", "new_site"}
"""The fixtures behind all by which tests get a hub."""

MARK = "mark.hub_independent"

IMPORT_WITHOUT_JUPYTERHUB = """
import importlib, sys
sys.modules["jupyterhub"] = None
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


@pytest.mark.hub_independent
def test_what_runs_for_one_version_of_jupyterhub_only_knows_none(request: pytest.FixtureRequest) -> None:
    chosen = [item for item in request.session.items if item.get_closest_marker("hub_independent")]
    functions = [item for item in chosen if isinstance(item, pytest.Function)]
    assert [item.nodeid for item in functions if HUBS.intersection(item.fixturenames)] == []
    # By what stands in the files, so that it holds also where few tests were chosen.
    files = [file.relative_to(ROOT) for file in (ROOT / "tests").rglob("test_*.py") if MARK in file.read_text("utf-8")]
    modules = sorted(".".join(file.with_suffix("").parts) for file in files)
    assert len(modules) > 20
    command = [sys.executable, "-c", IMPORT_WITHOUT_JUPYTERHUB, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
