"""From a link to a record to the session that has its files, on a real hub, with an archive's stand-in."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from demo.people import ADA
from tests.archives.ckan import CkanServer
from tests.login_fixtures import Visitor
from tests.site import Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.one_hub_version, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def portal() -> Iterator[CkanServer]:
    with CkanServer() as server:
        yield server


@pytest.fixture(scope="module")
def site(sites: Sites, portal: CkanServer) -> Site:
    return sites.start(settings={"EXEMPT_ORIGINS": portal.url})


def session_files(site: Site, launch: str) -> Path:
    """The session's own folder, in which its files lie."""
    (folder,) = (site.state / "sessions").glob(f"{launch}*")
    (notebook,) = folder.rglob("rain.ipynb")
    return notebook.parent


def test_a_record_is_agreed_to_built_and_opened_and_one_that_changed_is_told(site: Site, portal: CkanServer) -> None:
    notebook = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()
    record = portal.publish({"rain.ipynb": notebook, "rain.csv": b"day,mm\n1,3\n"}, title="Rain of a year")
    link = f"ckan/{quote(record.locator, safe='')}"
    client = site.client(ADA)
    with Visitor(site) as browser:  # type: ignore[arg-type] # of a hub it asks only the url
        browser.log_in(ADA)
        page = browser.open(f"/v2/{link}").text
        for shown in ("Rain of a year", "cc-by", record.versions[0], "<dt>Version</dt>", "exactly this version"):
            assert shown in page, shown
        assert "Commit" not in page
    launched = client.launch_and_wait(link, urlpath="lab/tree/rain.ipynb")
    files = session_files(site, launched["id"])
    assert (files / "rain.csv").read_bytes() == b"day,mm\n1,3\n"
    kept = json.loads((files / ".replay" / "launch.json").read_text())
    assert (kept["repository"], kept["link"]) == (record.page, f"/v2/{link}")
    version = kept["commit"]
    assert version.startswith(f"{record.versions[0]}-")
    site.stop_server(ADA)
    # What was built launches again, also by the version that is pinned, and nothing is asked of the archive for it but the list.
    asked = portal.count("/download/")
    assert client.launch_and_wait(f"{link}@{version}")["image"] == launched["image"]
    site.stop_server(ADA)
    assert portal.count("/download/") == asked
    portal.change(record, {"rain.ipynb": notebook, "rain.csv": b"day,mm\n1,4\n", "more.csv": b"1\n"})
    refused = client.launch(f"{link}@{version[:-12]}{'0' * 12}")
    assert (refused.status_code, "have changed since this link was made" in refused.json()["message"]) == (404, True)
