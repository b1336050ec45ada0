"""A browser as a person has it: Chromium, driven by what is visible."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.requirements import ROOT, browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


# Ends with these tests: Playwright's event loop would be in the way of asynchronous tests that come after.
@pytest.fixture(scope="package")
def chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-sync",
        "--no-first-run",
    ]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser(), args=flags, headless=True)
        yield started
        started.close()


@pytest.fixture
def context(chromium: "Browser", request: pytest.FixtureRequest) -> "Iterator[BrowserContext]":
    """A person's own browser: no cookies of anybody else's."""
    made = chromium.new_context(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(20_000)
    made.grant_permissions(["clipboard-read", "clipboard-write"])
    yield made
    if getattr(request.node, "failed", False):
        for number, page in enumerate(made.pages):
            page.screenshot(path=ROOT / "test-results" / f"{request.node.name}-{number}.png")
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.when == "call":
        item.failed = report.failed  # type: ignore[attr-defined]
    return report


@pytest.fixture
def picture() -> "Callable[[Page, str], None]":
    """Keep a screenshot: in ``test-results``, or where ``REPLAY_TEST_SCREENSHOTS`` says."""
    folder = Path(os.environ.get("REPLAY_TEST_SCREENSHOTS", ROOT / "test-results"))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=folder / f"{name}.png") and None
