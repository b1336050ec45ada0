"""Choosing a VO, agreeing to its terms, and what it says to its members, as a browser shows it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.people import CHIARA
from tests.site import Site, Sites

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.needs("browser", "proxy", "git-server", "pages")

POLICIES = """
defaults:
  memory: {guarantee: 2G, limit: 4G}
vos:
  vo.notebooks.egi.eu: {}
  vo.access.egi.eu:
    cpu: {guarantee: 0.5, limit: 2}
    maximum_age: 8h
    banner: |
      Maintenance on Monday, from 8 to 9 UTC.

      <b>Sessions</b> are stopped before.
    terms:
      version: 2026-11
      text: |
        Use it for research.

        Cite EGI in what you publish.
    community:
      name: Access & Friends
      logo: /hub/static/favicon.ico
"""


@pytest.fixture(scope="module")
def governed(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Site:
    file = tmp_path_factory.mktemp("policies") / "policies.yaml"
    file.write_text(POLICIES)
    return sites.start(settings={"POLICIES": str(file)})


def test_a_vo_is_chosen_its_terms_are_agreed_to_once_and_the_choice_is_remembered(
    governed: Site, context: "BrowserContext", picture: "Callable[[Page, str], None]", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    gate = tmp_path / "gate"
    repo = governed.repository(
        "chosen",
        {"postBuild": f"#!/bin/sh\nwhile [ ! -e '{gate}' ]; do sleep 0.1; done\n"},
        executable=("postBuild",),
    )
    page = context.new_page()
    broken: list[str] = []
    page.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
    page.goto(f"{governed.url}/v2/{repo.spec}")
    page.get_by_role("link", name="Log in to continue").click()
    page.get_by_role("button", name=CHIARA.name).click()

    # Both VOs are there with what each gives; a banner is the text that it is.
    expect(page.get_by_text("Maintenance on Monday, from 8 to 9 UTC.")).to_be_visible()
    expect(page.get_by_text("<b>Sessions</b> are stopped before.")).to_be_visible()
    expect(page.get_by_text("Ends after 8 hours at the latest")).to_be_visible()
    access, notebooks = (page.get_by_role("radio", name=f"vo.{name}.egi.eu") for name in ("access", "notebooks"))
    agree = page.get_by_role("checkbox", name="I have read these terms")
    expect(access).to_be_checked()
    expect(agree).not_to_be_checked()
    picture(page, "policies-terms")
    notebooks.check()
    expect(agree).to_be_hidden()
    picture(page, "policies-other-vo")
    access.check()

    # Without the tick nothing starts, and the page says why.
    page.get_by_role("button", name="Build and launch").click()
    alert = page.get_by_role("alert")
    expect(alert).to_have_text(
        "Nothing was started: tick that you agree to the terms of use of vo.access.egi.eu first."
    )
    expect(access).to_be_checked()
    picture(page, "policies-not-agreed")
    assert governed.rows("SELECT count(*) FROM launches") == [(0,)]
    assert governed.rows("SELECT count(*) FROM terms_agreed") == [(0,)]
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    picture(page, "policies-narrow")
    page.set_viewport_size({"width": 1280, "height": 900})

    agree.check()
    page.get_by_role("button", name="Build and launch").click()
    page.wait_for_url("**/launches/*")
    expect(page.get_by_role("link", name="Access & Friends on Replay")).to_be_visible()
    expect(page.get_by_text("Maintenance on Monday, from 8 to 9 UTC.")).to_be_visible()
    picture(page, "policies-launch")
    launch = governed.client(CHIARA).get(page.url.rsplit("/", 1)[1])
    assert launch["vo"] == "vo.access.egi.eu"
    page.get_by_role("button", name="Give up this launch").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("ended")

    # The next time it is chosen already, and its terms are not asked for again.
    page.goto(f"{governed.url}/services/replay/v2/{repo.spec}")
    expect(access).to_be_checked()
    expect(agree).to_have_count(0)
    page.goto(f"{governed.url}/services/replay/")
    expect(page.get_by_role("link", name="Access & Friends on Replay")).to_be_visible()
    picture(page, "policies-home")
    # The answer 403 to the form without its tick is all that the browser complained about.
    assert [text for text in broken if "403" not in text] == []
