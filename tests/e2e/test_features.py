"""What a session gets beside its image, as a browser shows it: asked for, told of, and while it is not there yet."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from demo.checkin_controls import Endpoint
from demo.people import ADA
from tests.site import Sites

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.needs("browser", "proxy", "git-server", "pages"), pytest.mark.one_hub_version]


def test_features_are_ticked_by_the_person_and_the_page_says_what_became_of_them(
    sites: Sites, context: "BrowserContext", picture: "Callable[[Page, str], None]"
) -> None:
    from playwright.sync_api import expect

    site = sites.start(settings={"FEATURES": "token,stations"}, extra_config="c.Spawner.http_timeout = 120\n")
    repo = site.repository("plain", {"README.md": "hello\n"})
    site.client(ADA).launch_and_wait(repo)  # so that it is built
    site.stop_server(ADA)
    page = context.new_page()
    page.goto(f"{site.url}/v2/{repo.spec}")
    page.get_by_role("link", name="Log in to continue").click()
    page.get_by_role("button", name=ADA.name).click()

    token = page.get_by_role("checkbox", name=re.compile("An access token of yours"))
    stations = page.get_by_role("checkbox", name=re.compile("readings of our weather stations"))
    expect(token).not_to_be_checked()
    expect(page.get_by_text("Whatever runs in this session can act in your name")).to_be_visible()
    token.check()
    stations.check()
    picture(page, "features-asked")

    # The login has just been proved, so the start goes on; only the token is not to be had.
    site.checkin.controls.set_fault(Endpoint.TOKEN, 503)
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url("**/user/**", timeout=120_000)
    page.goto(f"{site.url}/services/replay/")
    expect(page.get_by_text("They are in stations/stations.csv.")).to_be_visible()
    expect(page.get_by_text("Not yet.")).to_be_visible()
    expect(page.get_by_text("It is tried again at")).to_be_visible()
    picture(page, "features-delayed")
    site.checkin.controls.set_fault(Endpoint.TOKEN, None)
    given = page.get_by_text("It is in the file that REPLAY_ACCESS_TOKEN_FILE names")
    for _ in range(60):
        page.reload()
        if given.count():
            break
        page.wait_for_timeout(1000)
    expect(given).to_be_visible()
    picture(page, "features-given")
    site.stop_server(ADA)
