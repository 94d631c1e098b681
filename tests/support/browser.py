"""A person at a real Chromium: what the browser tests and the README's pictures have in common."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

SYSTEM_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 90_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's own where there is none."""
    path = next((found for name in SYSTEM_CHROMIUM if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


def log_in(page: Page, url: str, name: str, password: str) -> None:
    """From the login page to where the hub leads."""
    page.goto(f"{url}/hub/login?next=/hub/home")
    page.fill("#username_input", name)
    page.fill("#password_input", password)
    page.click("#login_submit")
    page.wait_for_url(re.compile("/hub/home"))


def start(page: Page, size: str) -> None:
    """From the spawn page, with the named size, to JupyterLab."""
    page.get_by_role("radio", name=size).check()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url(re.compile(r"/user/.*/lab"), timeout=PATIENCE_MS)
    expect(page.locator(".jp-DirListing-item").first).to_be_visible(timeout=PATIENCE_MS)


def run_notebook(page: Page, file: str, cells: int) -> Locator:
    """Opens a notebook of the file browser, runs all of it; returns its panel."""
    page.locator(".jp-DirListing-item", has_text=file).dblclick()
    panel = page.locator(f'.jp-NotebookPanel:has([title*="{file}"]), .jp-NotebookPanel').last
    expect(panel.locator(".jp-Cell").first).to_be_visible(timeout=PATIENCE_MS)
    # Run before the kernel is there, and JupyterLab asks which kernel is meant.
    expect(page.locator("#jp-bottom-panel, #jp-main-statusbar").first).to_contain_text(
        "Python 3 (ipykernel) | Idle", timeout=PATIENCE_MS
    )
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(panel.locator(".jp-InputPrompt", has_text=f"[{cells}]:")).to_be_visible(
        timeout=PATIENCE_MS
    )
    return panel
