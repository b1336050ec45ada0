"""A page that is left open while the service dies under it."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.people import ADA
from tests.site import DEAD_SERVICES_ARE_STARTED_SOON, Site

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

pytestmark = [
    pytest.mark.needs("browser", "proxy", "git-server"),
    pytest.mark.timeout(400),
    pytest.mark.one_hub_version,
]


def test_the_page_says_that_the_connection_is_lost_and_goes_on_where_it_was(
    new_site: Callable[..., Site], context: "BrowserContext", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    site = new_site(extra_config=DEAD_SERVICES_ARE_STARTED_SOON)
    gate = tmp_path / "gate"
    script = f"#!/bin/sh\necho line one\nwhile [ ! -e {gate} ]; do sleep 0.05; done\necho line two\n"
    repo = site.repository("lasting", {"postBuild": script})
    page = context.new_page()
    page.goto(f"{site.url}/v2/{repo.spec}")
    page.get_by_role("link", name="Log in to continue").click()
    page.get_by_role("button", name=ADA.name).click()
    page.get_by_role("button", name="Build and launch").click()
    expect(page.get_by_text("line one").first).to_be_visible(timeout=120_000)
    os.kill(site.service_process().pid, 9)
    expect(page.get_by_text(re.compile("Connection lost", re.IGNORECASE)).first).to_be_visible(timeout=60_000)
    expect(page.get_by_text(re.compile("Connection lost", re.IGNORECASE)).first).to_be_hidden(timeout=60_000)
    gate.touch()
    page.wait_for_url("**/user/**/lab*", timeout=120_000)
