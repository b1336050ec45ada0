"""The demo's manager, by what is visible: two people with a browser each, and the manager stops what the other runs."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.people import ADA, DMITRI
from tests.e2e.test_demo import first_of_free_ports, processes_of, running_demo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.needs("browser", "proxy", "git-server"), pytest.mark.timeout(400)]

VO = "vo.notebooks.egi.eu"
NARROW = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 900}


def has_no_sideways_scroll(page: "Page") -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_demos_manager_stops_the_researchers_server(
    chromium: "Browser", context: "BrowserContext", picture: "Callable[[Page, str], None]", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    folder = tmp_path / "demo"
    with running_demo(folder, first_of_free_ports()) as demo:
        assert re.search(rf"{DMITRI.name} +manager of {re.escape(VO)}", demo.said), demo.said
        (link,) = re.findall(r"http\S+hello-notebook\S+", demo.said)

        # the researcher launches
        researcher = context.new_page()
        researcher.goto(link)
        researcher.get_by_role("link", name="Log in to continue").click()
        researcher.get_by_role("button", name=ADA.name).click()
        researcher.get_by_role("button", name="Build and launch").click()
        researcher.wait_for_url("**/launches/*")
        launch_url = researcher.url
        researcher.wait_for_url("**/user/**", timeout=240_000)
        researcher.goto("about:blank")

        # the manager, with a browser of their own
        other = chromium.new_context(viewport=WIDE)  # type: ignore[arg-type]
        other.set_default_timeout(20_000)
        manager = other.new_page()
        manager.goto(f"{demo.url}/services/replay/")
        if manager.get_by_role("button", name=DMITRI.name).count() == 0:
            manager.get_by_role("link", name=re.compile("Log in|Sign in")).first.click()
        manager.get_by_role("button", name=DMITRI.name).click()
        expect(manager.get_by_role("heading", name="Virtual organisations that you manage")).to_be_visible()
        manager.get_by_role("link", name=VO).click()
        expect(manager.get_by_role("heading", level=1, name=VO)).to_be_visible()
        expect(manager.get_by_role("link", name=ADA.voperson_id)).to_be_visible()
        expect(manager.get_by_text("1 session runs for this VO now.")).to_be_visible()

        def go(name: str) -> None:
            manager.get_by_role("navigation", name="Pages of this VO").get_by_role("link", name=name).click()
            expect(manager.get_by_role("heading", level=2).first).to_be_visible()

        def keep(name: str) -> None:
            """Both widths, and no page is wider than its window."""
            for size, suffix in ((NARROW, "-narrow"), (WIDE, "")):
                manager.set_viewport_size(size)  # type: ignore[arg-type]
                picture(manager, f"managers-{name}{suffix}")
                assert has_no_sideways_scroll(manager), (name, size)

        keep("sessions-before")

        # all that can be looked at and decided
        for name in ("Launches", "Builds", "Usage", "Audit log"):
            go(name)
            keep(name.lower().replace(" ", "-"))
        go("Builds")
        manager.get_by_role("link", name=re.compile("^Log of the build")).click()
        expect(manager.get_by_role("region", name="Log of this build")).to_contain_text("The environment is built.")
        keep("build")
        go("Rules")
        manager.get_by_text("Add a rule").click()
        manager.get_by_role("textbox", name="Repositories").fill("github.com/somebody/*")
        manager.get_by_label("Reason, for other managers").fill("mines coins")
        manager.get_by_role("button", name="Add the rule").click()
        expect(manager.get_by_role("status")).to_have_text("The rule holds from now on.")
        manager.get_by_text("Change the banner").click()
        manager.get_by_label("Text, without any formatting (left empty: no banner)").fill(
            "On Friday we move to new machines."
        )
        manager.get_by_role("button", name="Show this text").click()
        expect(manager.get_by_text("Shown to this VO’s members now:")).to_be_visible()
        manager.get_by_text("Block a person").click()
        keep("rules")
        go("What would happen")
        manager.get_by_label("Who").fill(ADA.voperson_id)
        manager.get_by_label("Which link").fill("gh/Somebody/miner/HEAD")
        manager.get_by_role("button", name="Ask").click()
        expect(manager.get_by_role("heading", name="It would be refused")).to_be_visible()
        keep("explain")
        go("Events")
        now = datetime.now(UTC)
        manager.get_by_label("Title").fill("Summer school")
        manager.get_by_label("Link that its people will open").fill(link)
        manager.get_by_label("Starts, in UTC").fill(f"{now + timedelta(days=7):%Y-%m-%dT09:00}")
        manager.get_by_label("Ends, in UTC").fill(f"{now + timedelta(days=7):%Y-%m-%dT17:00}")
        manager.get_by_label("People expected").fill("60")
        keep("events")
        manager.get_by_role("button", name="Prepare and build now").click()
        expect(manager.get_by_text("built, so it starts in seconds")).to_be_visible()
        keep("event")

        # and the stop
        go("Sessions")
        manager.get_by_text("Stop this session").click()
        manager.get_by_label("Reason, which the person is told").fill("The machine is needed for a course.")
        keep("sessions")
        manager.get_by_role("button", name="Stop it").click()
        expect(manager.get_by_role("status")).to_have_text("The session was stopped.", timeout=60_000)
        expect(manager.get_by_text("Nothing is on its way, and nothing runs.")).to_be_visible()
        go("Audit log")
        expect(manager.get_by_role("cell", name="stop a session")).to_be_visible()
        keep("audit")
        other.close()

        # the researcher is told, and nothing of theirs runs
        researcher.goto(launch_url)
        expect(
            researcher.get_by_text(f"A manager of {VO} stopped this session: The machine is needed for a course.")
        ).to_be_visible()
        picture(researcher, "managers-stopped")
        assert not [line for line in processes_of(folder) if "jupyterhub.singleuser" in line]
    assert processes_of(folder) == []
