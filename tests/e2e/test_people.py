"""Who may and who may not, as they see it in a browser."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from demo.people import ADA, BORIS, CHIARA
from tests.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.needs("browser", "proxy", "git-server")


def test_somebody_in_no_vo_is_told_which_would_do_and_can_change_the_account(
    site: Site, context: "BrowserContext", picture: "Callable[[Page, str], None]"
) -> None:
    from playwright.sync_api import expect

    repo = site.repository("people", {"README.md": "people\n"})
    page = context.new_page()
    page.goto(f"{site.url}/v2/{repo.spec}?labpath=README.md")
    page.get_by_role("link", name="Log in to continue").click()
    page.get_by_role("button", name=BORIS.name).click()
    expect(page.get_by_text(BORIS.name).first).to_be_visible()
    expect(page.get_by_text(BORIS.email).first).to_be_visible()
    expect(page.get_by_role("link", name="vo.notebooks.egi.eu")).to_have_attribute(
        "href", "https://operations-portal.egi.eu/vo/view/voname/vo.notebooks.egi.eu"
    )
    expect(page.get_by_text("vo.environmental.egi.eu").first).to_be_visible()
    picture(page, "refused")
    assert site.admin("GET", f"/users/{BORIS.voperson_id}").status_code == 404
    page.get_by_role("link", name="Log in with another account").click()
    page.get_by_role("button", name=ADA.name).click()
    expect(page.get_by_text(repo.commit[:10]).first).to_be_visible()
    expect(page.get_by_text("README.md").first).to_be_visible()


def test_somebody_in_two_vos_chooses(site: Site, context: "BrowserContext") -> None:
    from playwright.sync_api import expect

    repo = site.repository("people", {"README.md": "people\n"})
    page = context.new_page()
    page.goto(f"{site.url}/v2/{repo.spec}")
    page.get_by_role("link", name="Log in to continue").click()
    page.get_by_role("button", name=CHIARA.name).click()
    expect(page.get_by_role("radio")).to_have_count(2)
    page.get_by_role("radio", name="vo.notebooks.egi.eu").check()
    page.get_by_role("button", name="Build and launch").click()
    page.wait_for_url("**/launches/*")
    launch = site.client(CHIARA).get(page.url.rsplit("/", 1)[1])
    assert launch["vo"] == "vo.notebooks.egi.eu"
    page.get_by_role("button", name="Give up this launch").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("ended")
    assert site.client(CHIARA).get(launch["id"])["state"] == "ended"
