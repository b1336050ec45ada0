"""A researcher's whole way, by what is visible: from a link to a cell that ran, and to the next link."""

import json
import re
import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.people import ADA
from tests.site import Site, Sites

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

pytestmark = [pytest.mark.needs("browser", "proxy", "git-server"), pytest.mark.timeout(600)]

BUILD_MS = 240_000


def notebook(*cells: tuple[str, str]) -> str:
    return json.dumps(
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "cells": [
                {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
                | ({"outputs": [], "execution_count": None} if kind == "code" else {})
                for number, (kind, source) in enumerate(cells)
            ],
        }
    )


@pytest.fixture(scope="module")
def own_site(sites: Sites) -> Site:
    return sites.start()


def test_from_a_link_to_a_cell_that_ran(
    own_site: Site, context: "BrowserContext", picture: "Callable[[Page, str], None]", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    site = own_site
    in_notebook, in_dependency = secrets.token_hex(8), secrets.token_hex(8)
    gate = tmp_path / "gate"  # the build waits until it is there
    repo = site.repository(
        "analysis",
        {
            "requirements.txt": "six==1.17.0\n./marker\n",
            "postBuild": f"#!/bin/sh\necho At the gate\nwhile [ ! -e '{gate}' ]; do sleep 0.1; done\n",
            "marker/pyproject.toml": '[project]\nname = "marker"\nversion = "1"\n'
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[tool.setuptools]\npy-modules = ["marker"]\n',
            "marker/marker.py": f'VALUE = "{in_dependency}"\n',
            "index.ipynb": notebook(
                ("markdown", "# An analysis\nMade for this test."),
                (
                    "code",
                    "import subprocess, marker, six\n"
                    f'print("{in_notebook}", marker.VALUE, six.__version__)\n'
                    'print(subprocess.check_output(["git", "rev-parse", "HEAD"], text=True))',
                ),
            ),
        },
        executable=("postBuild",),
    )
    other = site.repository("other", {"README.md": "another repository\n"})
    link = f"{site.url}/v2/{repo.spec}?labpath=index.ipynb"

    # 1: the link, not logged in
    asked_before = len(site.git.requests)
    page = context.new_page()
    page.goto(link)
    expect(page.get_by_text(repo.url).first).to_be_visible()
    expect(page.get_by_text("HEAD", exact=True).first).to_be_visible()
    picture(page, "link")
    assert len(site.git.requests) == asked_before, "nothing was asked of the repository's host"

    # 2: the login
    page.get_by_role("link", name="Log in").or_(page.get_by_role("button", name="Log in")).first.click()
    picture(page, "login")
    page.get_by_role("button", name=ADA.name).click()

    # 3: what will run, and one button
    expect(page.get_by_text(repo.commit[:10]).first).to_be_visible()
    expect(page.get_by_text("vo.notebooks.egi.eu").first).to_be_visible()
    expect(page.get_by_text("2 GB").first).to_be_visible()
    expect(page.get_by_text(re.compile("Not built yet")).first).to_be_visible()
    picture(page, "consent")
    assert site.server(ADA) is None
    page.get_by_role("button", name=re.compile("Build and launch")).click()

    # 4: phases and the live log; the tab is closed, the link opened again: the same build
    page.wait_for_url("**/launches/*")
    launch_url = page.url
    expect(page.get_by_role("heading", name="Building your environment")).to_be_visible()
    expect(page.get_by_text(re.compile("Resolved .* packages")).first).to_be_visible(timeout=BUILD_MS)
    expect(page.get_by_text("At the gate").first).to_be_visible(timeout=BUILD_MS)
    expect(phase_now(page)).to_contain_text("Building")
    picture(page, "launch")
    page.get_by_role("radio", name="exactly this commit").check()
    shared = page.get_by_label("Markdown for exactly this commit", exact=True)
    page.get_by_role("button", name="Copy Markdown for exactly this commit").click()
    assert page.evaluate("navigator.clipboard.readText()") == shared.input_value()
    expect(shared).to_have_value(
        re.compile(rf"\[!\[Replay\]\({re.escape(site.url)}/badge_logo\.svg\)\].*/{repo.commit}")
    )
    page.close()
    page = context.new_page()
    page.goto(link)
    page.wait_for_url("**/launches/*")
    assert page.url == launch_url
    expect(page.get_by_text("At the gate").first).to_be_visible()
    expect(phase_now(page)).to_contain_text("Building")
    assert site.rows("SELECT count(*) FROM builds WHERE repository LIKE '%/analysis%'") == [(1,)]
    gate.touch()

    # 5: JupyterLab, on the notebook, in the repository's environment
    with page.expect_response(re.compile("/api/config/replay_activity"), timeout=BUILD_MS) as told:
        page.wait_for_url("**/user/**/index.ipynb*", timeout=BUILD_MS)
    assert told.value.ok, "the extension tells the session's server, through the hub, that somebody is there"
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
    cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first
    cell.click(timeout=60_000)
    page.keyboard.press("Control+Enter")
    output = page.locator(".jp-OutputArea-output").first
    expect(output).to_contain_text(f"{in_notebook} {in_dependency} 1.17.0", timeout=60_000)
    expect(output).to_contain_text(repo.commit)
    picture(page, "notebook")

    # 6: a second link
    second = context.new_page()
    second.goto(f"{site.url}/v2/{other.spec}")
    expect(second.get_by_role("heading", name="Your server is running")).to_contain_text("/analysis")
    expect(second.get_by_role("link", name="Open the running one")).to_be_visible()
    expect(second.get_by_role("button", name="Stop it and launch this")).to_be_visible()
    picture(second, "one-server")
    page.close()  # or JupyterLab, open in two tabs, would lead the second one to a workspace of its own, at its own time
    second.get_by_role("link", name="Open the running one").click()
    second.wait_for_url("**/user/**")
    second.goto(f"{site.url}/v2/{other.spec}")
    second.get_by_role("button", name="Stop it and launch this").click()
    second.wait_for_url("**/user/**/lab*", timeout=BUILD_MS)
    server = site.server(ADA)
    assert server is not None
    launch = site.client(ADA).get(server["user_options"]["launch"])
    assert (launch["version"], launch["state"]) == (other.commit, "running")
    assert site.session_folders() == [launch["id"]], "what belonged to the first session is gone"

    # the home page knows both, and stops the session
    second.goto(f"{site.url}/services/replay/")
    expect(second.get_by_role("region", name="Running now")).to_contain_text("/other")
    last = second.get_by_role("region", name="Your last launches").get_by_role("listitem")
    expect(last).to_contain_text(["/other", "/analysis"])
    picture(second, "home")
    with second.expect_download() as coming:
        second.get_by_role("link", name=re.compile("^Download my work")).click()
    with zipfile.ZipFile(coming.value.path()) as work:
        assert re.fullmatch(r"other-[\d-]+\.zip", coming.value.suggested_filename)
        (readme,) = [name for name in work.namelist() if name.endswith("/README.md")]
        assert work.read(readme) == b"another repository\n"
    second.get_by_role("button", name=re.compile("^Stop")).click()
    expect(second.get_by_role("button", name=re.compile("^Stop"))).to_have_count(0)
    assert site.server(ADA) is None
    assert site.session_folders() == []

    # whatever is pasted there leads on to what would run
    second.get_by_label(re.compile("^Paste")).fill("hello")
    second.keyboard.press("Enter")
    expect(second.get_by_label(re.compile("^Paste"))).to_have_value("hello")
    expect(second.get_by_text("Replay cannot read this.")).to_be_visible()
    picture(second, "pasted")
    second.get_by_label(re.compile("^Paste")).fill(f"git clone {other.url}")
    second.get_by_role("button", name="Show what would run").click()
    second.wait_for_url(f"**/v2/{other.spec}")
    expect(second.get_by_text(other.commit[:10]).first).to_be_visible()


def phase_now(page: "Page") -> "Locator":
    """The one phase that the page calls the present one."""
    return page.locator("[aria-current=step]")
