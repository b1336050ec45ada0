"""A provider of another package, on a real git server and then on a real hub: both of its processes understand its links."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.git_server import GitServer
from replay_build_service import syntax
from replay_build_service.assembly import make_providers, outgoing_rules
from replay_build_service.links import RepoSpec
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.asking import Asker
from tests.requirements import ROOT
from tests.site import Repo, Sites, make_repository
from tests.toy_provider import install

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.one_hub_version]


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with GitServer(tmp_path_factory.mktemp("toys")) as server:
        yield server


@pytest.fixture(scope="module")
def hello(git: GitServer, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """What the builder of environments does not take, and says so at once."""
    work = tmp_path_factory.mktemp("work") / "hello"
    return make_repository(git, work, "hello", {"Dockerfile": "FROM scratch\n"})


@pytest.fixture(scope="module")
def packages(git: GitServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("packages"), server=git.url.rstrip("/"))


def test_a_toy_is_resolved_as_every_git_repository_is(
    git: GitServer, hello: Repo, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syntax, "_SYNTAXES", dict(syntax._SYNTAXES))
    monkeypatch.delitem(sys.modules, "replay_toy_provider", raising=False)
    monkeypatch.syspath_prepend(packages)
    settings = ServiceSettings(exempt_origins=[git.url.rstrip("/")])

    async def ask() -> None:
        async with asyncio.TaskGroup() as tasks, Asker(outgoing_rules(settings)) as asker:
            providers = make_providers(settings, tasks, asker)
            toy = await providers["toy"].resolve(RepoSpec.parse("toy/hello"))
            plain = await providers["git"].resolve(RepoSpec.parse(hello.spec))
            assert (toy.version, toy.repository) == (hello.commit, plain.repository)
            assert toy.spec.text == "toy/hello/HEAD"

    asyncio.run(ask())


def test_the_how_tos_way_of_testing_works(
    git: GitServer, hello: Repo, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syntax, "_SYNTAXES", dict(syntax._SYNTAXES))
    monkeypatch.delitem(sys.modules, "replay_toy_provider", raising=False)
    monkeypatch.syspath_prepend(packages)
    _, way = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "providers.md").read_text(), re.DOTALL)
    shown: dict[str, Any] = {}
    exec(way, shown)
    assert asyncio.run(shown["resolved"]("toy/hello", git.url.rstrip("/"))) == hello.commit


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise RuntimeError('no such planet')", "cannot be used: broken:Toy cannot be imported (RuntimeError: no such planet)"),
        (
            "from replay_toy_provider import ToyProvider\n"
            "class Toy(ToyProvider):\n    def __init__(self, context): raise RuntimeError('no such planet')\n",
            "cannot be made: RuntimeError: no such planet",
        ),
    ],
    ids=["its module raises", "its factory raises"],
)  # fmt: skip
def test_the_service_does_not_start_with_one_that_cannot_be_used(tmp_path: Path, text: str, why: str) -> None:
    folder = install(tmp_path / "packages", toy="broken:Toy")
    (folder / "broken.py").write_text(text)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "JUPYTERHUB_API_TOKEN": "token",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api", "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:1",
    }  # fmt: skip
    command = [sys.executable, "-m", "replay_build_service.app", "run", "--ReplayBuildService.metrics_address="]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"The provider “toy” of replay-toy-provider 1.0 {why}. Mend it, or uninstall it."


def test_hub_and_service_understand_its_links(sites: Sites, git: GitServer, hello: Repo, packages: Path) -> None:
    url = git.url.rstrip("/")
    site = sites.start(settings={"EXEMPT_ORIGINS": url}, environment={"PYTHONPATH": str(packages)})
    # Nobody is logged in: the hub's page, from the link alone.
    page = httpx.get(f"{site.url}/hub/v2/toy/hello")
    assert (page.status_code, f"{url}/hello.git" in page.text) == (200, True)
    assert httpx.get(f"{site.url}/hub/v2/toy/HELLO").status_code == 400
    ada = site.client()
    assert "Dockerfile asks for" in ada.launch_and_fail("toy/hello")
    assert any("git-upload-pack" in line for line in git.requests)
    assert site.rows("SELECT repository, version FROM builds") == [(f"{url}/hello", hello.commit)]
