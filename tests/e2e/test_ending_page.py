"""The warning on a page that stays open: the page and its script as they are, with the service's answers as the test has them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_pages import SERVICE, SERVICE_PATH, html_of, launch

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Route

pytestmark = [pytest.mark.one_hub_version, pytest.mark.needs("browser", "pages")]

ORIGIN = "https://hub.example.org"
SENTENCE = "This session ends at 15:04 UTC, in about 4 minutes: 1 hour after it was last used."
FAR: dict[str, Any] = {"launch": launch().id, "ends_at": None, "sentence": ""}
NEAR: dict[str, Any] = {"launch": launch().id, "ends_at": "2026-11-26T15:04:00Z", "sentence": SENTENCE}
POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self'; form-action 'self'"

# A headless browser shows no notifications and permits none: what the page asks of it is kept.
NOTIFICATIONS = """
window.shown = [];
window.Notification = class {
  static permission = "default";
  static async requestPermission() { return (this.permission = "granted"); }
  constructor(title, options) { window.shown.push([title, options.body, options.tag]); }
  addEventListener() {}
};
"""


@dataclass
class Answers:
    """What the service says."""

    page: str
    session: Any = field(default_factory=lambda: FAR)
    status: int = 200
    asked: list[str] = field(default_factory=list[str])
    posted: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])

    def answer(self, route: "Route") -> None:
        request = route.request
        path = request.url.removeprefix(ORIGIN + SERVICE_PATH)
        if request.method == "POST":
            self.posted.append((path, request.post_data))
            route.fulfill(status=204)
        elif path.startswith("api/session"):
            self.asked.append(path)
            route.fulfill(status=self.status, content_type="application/json", body=json.dumps(self.session))
        elif path.startswith("static/") and (SERVICE / path).is_file():
            route.fulfill(path=SERVICE / path)
        else:
            headers = {"Content-Security-Policy": POLICY, "Content-Type": "text/html; charset=utf-8"}
            route.fulfill(body=self.page, headers=headers)


def look_again(page: "Page") -> None:
    """As when the person comes back to the page; else it looks each minute."""
    with page.expect_response(re.compile("api/session")):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.fixture
def opened(context: "BrowserContext") -> "Callable[[Answers], Page]":
    def open_page(answers: Answers) -> "Page":
        context.add_init_script(NOTIFICATIONS)
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.route(f"{ORIGIN}/**", answers.answer)
        with page.expect_response(re.compile("api/session")):
            page.goto(ORIGIN + SERVICE_PATH)
        return page

    return open_page


def test_the_warning_comes_and_goes_and_a_notification_comes_once(
    opened: "Callable[[Answers], Page]", picture: "Callable[[Page, str], None]"
) -> None:
    answers = Answers(html_of("home, running, by the engine"))
    page = opened(answers)
    stay = page.get_by_role("button", name="Stay")
    assert not stay.is_visible()
    page.get_by_role("button", name="Tell me before it ends").click()
    page.wait_for_function("Notification.permission === 'granted'")
    assert not page.get_by_role("button", name="Tell me before it ends").is_visible()

    answers.session = NEAR
    look_again(page)
    stay.wait_for()
    assert page.get_by_role("status").filter(has_text="This session ends").inner_text().startswith(SENTENCE)
    picture(page, "session-about-to-end")
    for _ in range(2):  # By the second answer the first was dealt with.
        look_again(page)
    assert page.evaluate("window.shown") == [["Your session ends soon", SENTENCE, f"replay-{launch().id}"]]
    assert all(re.fullmatch(r"api/session\?_xsrf=.+", path) for path in answers.asked)

    with page.expect_request(re.compile("/stay$")):
        stay.click()
    assert [path for path, _ in answers.posted] == [f"launches/{launch().id}/stay"]
    assert "_xsrf=" in (answers.posted[0][1] or "")
    answers.session = FAR
    look_again(page)
    stay.wait_for(state="hidden")


@pytest.mark.parametrize(
    ("session", "status"),
    [(NEAR, 503), ("nonsense", 200), (None, 200), ({**NEAR, "launch": "f" * 32}, 200), ({**NEAR, "ends_at": 4}, 200)],
    ids=["away", "nonsense", "null", "another session", "no time"],
)
def test_an_answer_of_no_use_warns_of_nothing(opened: "Callable[[Answers], Page]", session: Any, status: int) -> None:
    page = opened(Answers(html_of("home, running, by the engine"), session, status))
    look_again(page)
    assert not page.get_by_role("button", name="Stay").is_visible()
    assert page.evaluate("window.shown") == []


def test_without_a_script_the_warning_is_there(context: "BrowserContext") -> None:
    html = html_of("home, running, about to end")
    without = context.browser.new_context(java_script_enabled=False)  # type: ignore[union-attr]
    shown = without.new_page()
    shown.set_content(html)
    assert shown.get_by_role("button", name="Stay").is_visible()
    assert not shown.get_by_role("button", name="Tell me before it ends").is_visible()
    without.close()
