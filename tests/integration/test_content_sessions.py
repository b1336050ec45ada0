"""A link with a second repository, from the consent page to the session that has the files of both, on a real hub."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from demo.people import ADA
from tests.login_fixtures import Visitor
from tests.site import Repo, Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.one_hub_version, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(sites: Sites) -> Site:
    limit = 'c.JupyterHub.services[0]["command"] += ["--ReplayBuildService.content_limit=300K"]'
    return sites.start(extra_config=limit)


@pytest.fixture(autouse=True)
def _nothing_runs(site: Site) -> Iterator[None]:
    yield
    site.stop_server(ADA)


def home_of(site: Site, launch: str) -> Path:
    (home,) = (site.state / "sessions" / launch / "home").iterdir()
    return home


def environment_of(site: Site, launch: str) -> dict[str, str]:
    """Of the session's server."""
    for process in site.processes():
        with suppress(psutil.Error):
            if (environment := process.environ()).get("REPLAY_LAUNCH") == launch:
                return environment
    raise AssertionError("no process of that session")


def test_two_repositories_are_agreed_to_and_the_session_has_both_and_new_content_needs_no_build(site: Site) -> None:
    environment = site.repository("environment", {"tools.txt": "of the environment\n"})
    notes = site.repository("notes", {"index.ipynb": "{}\n", "data/rain.csv": "day,mm\n", "data/link": "->rain.csv"})
    client = site.client(ADA)
    with Visitor(site) as browser:  # type: ignore[arg-type] # of a hub it asks only the url
        browser.log_in(ADA)
        page = browser.open(f"/v2/{environment.spec}?content={notes.spec}").text
        for shown in ("Run these two repositories?", environment.commit, notes.commit, "the folder <code>notes</code>"):
            assert shown in page, shown
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
        assert (fields["content"], fields["content_version"]) == (notes.spec, notes.commit)
        answer = browser.open_form("/services/replay/launches", fields)
        launch_id = answer.url.path.rpartition("/")[2]
    assert [last for _, last in client.events(launch_id)][-1]["phase"] == "ready"
    home = home_of(site, launch_id)
    assert (home / "tools.txt").read_text() == "of the environment\n"
    assert (home / "notes" / "data" / "link").read_text() == "day,mm\n"
    (home / "notes" / "index.ipynb").write_text("changed in the session")
    kept = json.loads((home / ".replay" / "launch.json").read_text())
    assert kept["content"] == {
        "repository": notes.url.removesuffix(".git"),
        "commit": notes.commit,
        "link": notes.spec,
        "folder": "notes",
    }
    assert kept["commit"] == environment.commit
    launched = client.get(launch_id)
    assert (launched["content"], launched["content_version"], launched["urlpath"]) == (
        notes.spec,
        notes.commit,
        "lab/tree/notes",
    )
    environ = environment_of(site, launch_id)
    assert (environ["REPLAY_CONTENT_COMMIT"], environ["REPLAY_CONTENT_FOLDER"]) == (notes.commit, "notes")
    site.stop_server(ADA)
    newer = site.repository("notes", {"index.ipynb": "newer\n"})
    builds = site.rows("SELECT count(*) FROM builds")
    again = client.launch_and_wait(environment, content=newer.spec.replace("HEAD", newer.commit))
    assert (again["image"], again["content_version"]) == (launched["image"], newer.commit)
    assert (home_of(site, again["id"]) / "notes" / "index.ipynb").read_text() == "newer\n", (
        "what a session changed is its own"
    )
    assert not (home_of(site, again["id"]) / "notes" / "data").exists()
    assert site.rows("SELECT count(*) FROM builds") == builds


@pytest.mark.parametrize(
    ("name", "files", "told"),
    [
        (
            "large",
            {"big.bin": "x" * 600_000},
            "large could not be fetched into your session. The repository is larger than",
        ),
        ("tools", {"a.txt": "a"}, "The environment's repository has a “tools” of its own, where the files of"),
    ],
)
def test_what_a_session_cannot_have_is_told_and_nothing_is_left(
    site: Site, name: str, files: dict[str, str], told: str
) -> None:
    environment: Repo = site.repository("taken", {"tools/a.txt": "of the environment\n"})
    content = site.repository(name, files)
    before = site.left_behind()
    client = site.client(ADA)
    assert told in client.launch_and_fail(environment, content=content.spec)
    assert site.server(ADA) is None
    assert {one for one in site.left_behind() - before if one.startswith("sessions/")} == set()


def test_a_bad_content_is_refused_before_anything_starts(site: Site) -> None:
    environment = site.repository("environment", {"tools.txt": "of the environment\n"})
    client = site.client(ADA)
    missing = client.launch(environment, content=environment.spec.replace("environment", "nowhere"))
    assert missing.status_code == 404
    assert missing.json()["message"].startswith("The second repository that this link names, after “content=”: ")
    assert client.launch(environment, content="svn/x/y/z").status_code == 400
