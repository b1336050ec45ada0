"""From a link to a cell that ran, on a cluster: build pods, a registry, session pods, and nothing left of them."""

import io
import secrets
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.people import ADA, NOTEBOOKS_MEMBER, Person
from tests.cluster.kernels import printed_by_a_cell
from tests.cluster.kube import Kube
from tests.cluster.site import ClusterSites, builds_of
from tests.registry_server import RegistryServer
from tests.site import Repo, Site

pytestmark = pytest.mark.needs("cluster", "engine", "registry", "git-server", "proxy")

IDLE_SECONDS = 30
CONTENT_LIMIT = 1_000_000
NOTEBOOK = '{"cells": [], "metadata": {}}'
GIB = 1024**3
CROWD = tuple(
    Person(
        name=f"Person Number{number:02}",
        email=f"person{number}@example.org",
        preferred_username="person",
        voperson_id=f"{number:064x}@egi.eu",
        remark="one of many",
        eduperson_entitlement=(NOTEBOOKS_MEMBER,),
    )
    for number in range(1, 21)
)


def marked(value: str) -> dict[str, str]:
    """A repository whose dependency has this value."""
    project = '[project]\nname = "marker"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[tool.setuptools]\npy-modules = ["marker"]\n'
    return {
        "requirements.txt": "six==1.17.0\n./marker\n",
        "marker/pyproject.toml": project,
        "marker/marker.py": f'VALUE = "{value}"\n',
    }


def until(is_so: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.1)


def test_from_a_link_to_a_cell_that_ran_in_a_pod(
    start: Callable[..., Site],
    cluster_sites: ClusterSites,
    cluster_registry: RegistryServer,
    kube: Kube,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    more = tmp_path_factory.mktemp("more")
    (more / "contents.py").write_text(f"c.ReplayBuildService.content_limit = {CONTENT_LIMIT}\n")
    settings = {"IDLE_SECONDS": str(IDLE_SECONDS), "EXTRA_CONFIG": str(more)}
    site = start(settings=settings, extra_config="c.JupyterHub.last_activity_interval = 1\n")
    value = secrets.token_hex(8)
    repo = site.repository("analysis", marked(value))
    ada = site.client(ADA)
    launch = ada.launch_and_wait(repo)
    # What runs is what the record says, which is what the registry has.
    pod = cluster_sites.session_pod(site)
    (notebook,) = [one for one in pod["spec"]["containers"] if one["name"] == "notebook"]
    name = launch["image_name"]
    repository, _, tag = name.rpartition(":")
    digest = cluster_registry.digest(repository, tag)
    host = cluster_registry.settings().host
    assert notebook["image"] == launch["image"] == f"{host}/{repository}@{digest}"
    assert site.rows("SELECT image_reference FROM builds") == [(launch["image"],)]
    # A cell prints the commit and the value; in it, the limit is the container's.
    code = (
        "import os, pathlib, subprocess, marker\n"
        "print(marker.VALUE, os.environ['REPLAY_COMMIT'], os.getuid())\n"
        "files = ['/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory.max']\n"
        "print([pathlib.Path(f).read_text().strip() for f in files if pathlib.Path(f).exists()][0])\n"
        "print(pathlib.Path('/var/run/secrets/kubernetes.io').exists())\n"
    )
    assert printed_by_a_cell(ada, code).split() == [value, repo.commit, "1000", str(4 * GIB), "False"]
    resources = notebook["resources"]
    assert (int(resources["requests"]["memory"]), int(resources["limits"]["memory"])) == (2 * GIB, 4 * GIB)
    # Nobody uses it any more.
    until(lambda: site.server(ADA) is None, "the session was ended", 5 * IDLE_SECONDS)
    cluster_sites.nothing_is_left()
    # The same link again builds nothing.
    again = ada.launch_and_wait(repo)
    assert again["image"] == launch["image"]
    assert builds_of(site, repo) == [("succeeded", "")]
    # What is in it comes down as one archive.
    with zipfile.ZipFile(io.BytesIO(ada.http.get(f"launches/{again['id']}/work").content)) as work:
        assert "marker/marker.py" in {name.partition("/")[2] for name in work.namelist()}
    site.stop_server(ADA)
    cluster_sites.nothing_is_left()
    a_content_comes_into_the_image_of_another(site, cluster_sites, repo, value)


def a_content_comes_into_the_image_of_another(site: Site, cluster_sites: ClusterSites, repo: Repo, value: str) -> None:
    ada = site.client(ADA)
    notes = site.repository("notes", {"index.ipynb": NOTEBOOK})
    launch = ada.launch_and_wait(repo, content=notes.spec)
    assert launch["content_version"] == notes.commit
    pod = cluster_sites.session_pod(site)
    (notebook,) = [one for one in pod["spec"]["containers"] if one["name"] == "notebook"]
    assert notebook["image"] == launch["image"]
    # The environment's package, and the content's notebook: the session's own, to change as it likes.
    code = (
        "import json, marker, os, pathlib\n"
        "folder = pathlib.Path.home() / 'notes'\n"
        "notebook = folder / 'index.ipynb'\n"
        "print(marker.VALUE, (folder / '.git' / 'HEAD').read_text().strip(), notebook.stat().st_uid == os.getuid())\n"
        "notebook.write_text(json.dumps(json.loads(notebook.read_text()) | {'metadata': {'mine': 'yes'}}))\n"
        "(folder / 'new').mkdir()\n"
        "print(json.loads(notebook.read_text()) == {'cells': [], 'metadata': {'mine': 'yes'}})\n"
        "print(sorted(path.name for path in folder.iterdir()))\n"
    )
    assert printed_by_a_cell(ada, code).splitlines() == [
        f"{value} {notes.commit} True",
        "True",
        "['.git', 'index.ipynb', 'new']",
    ]
    assert (builds_of(site, repo), builds_of(site, notes)) == ([("succeeded", "")], [])
    site.stop_server(ADA)
    # One that the pod cannot have: the fetcher's own sentence is why the launch failed, and nothing of it stays.
    large = site.repository("large", {"data.csv": secrets.token_hex(CONTENT_LIMIT)})
    assert ada.launch_and_fail(repo, content=large.spec).startswith(
        "The content could not be fetched: The repository is larger than 1 MB, which is the limit here."
    )
    cluster_sites.nothing_is_left()


def test_twenty_people_at_once_get_one_build_and_twenty_sessions(
    start: Callable[..., Site], cluster_sites: ClusterSites, notebook_image: str
) -> None:
    # Twenty servers that begin at once take the processors of a small machine for longer than JupyterHub waits by itself.
    patience = "c.Spawner.http_timeout = 400\nc.Spawner.start_timeout = 600\n"
    site = start(people=CROWD, settings={"MEM_GUARANTEE": "32M", "MEM_LIMIT": "1G"}, extra_config=patience)
    repo = site.repository(
        "crowd", {"Dockerfile": f"FROM {notebook_image}\nUSER root\nRUN sleep 5; date > /srv/made\nUSER 1000\n"}
    )
    people = [site.client(person) for person in CROWD]
    with ThreadPoolExecutor(len(people)) as all_at_once:
        launches = list(all_at_once.map(lambda one: one.launch_and_wait(repo), people))
    assert len({launch["image"] for launch in launches}) == 1
    assert builds_of(site, repo) == [("succeeded", "")]
    assert len(cluster_sites.kube.pods(cluster_sites.users)) == len(CROWD)
    with ThreadPoolExecutor(len(people)) as all_at_once:
        list(all_at_once.map(site.stop_server, CROWD))
    cluster_sites.nothing_is_left()
