"""A person at a browser: Chromium on the hub's pages and in JupyterLab.

Says how things are found on the pages, for the browser tests and for the README's pictures; what
must be true of them is the tests' business.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Servers, JupyterLab and kernels start while this is waited for, on a busy machine.
PATIENCE_MS = 90_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, else the one that Playwright brought; headless."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """One person with cookies of their own; ``errors`` collects what their pages complained of."""

    browser: Browser
    url: str
    width: int = 1280
    height: int = 900
    scale: float = 1
    scheme: Literal["light", "dark"] = "light"
    context: BrowserContext = field(init=False)
    page: Page = field(init=False)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context = self.browser.new_context(
            viewport={"width": self.width, "height": self.height},
            device_scale_factor=self.scale,
            color_scheme=self.scheme,
        )
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def close(self) -> None:
        self.context.close()

    def log_in(self, name: str, password: str) -> None:
        """By the hub's login page; ends at the home page."""
        self.page.goto(f"{self.url}/hub/login?next=/hub/home")
        self.page.fill("#username_input", name)
        self.page.fill("#password_input", password)
        self.page.click("#login_submit")
        self.page.wait_for_url(f"{self.url}/hub/home")

    # ---- the spawn page ----------------------------------------------------------------------

    def spawn_page(self) -> Locator:
        """Opens the spawn page; returns the form."""
        self.page.goto(f"{self.url}/hub/spawn")
        form = self.page.locator("#spawn_form")
        expect(form.get_by_role("group", name="GPU")).to_be_visible()
        return form

    def card(self, name: str) -> Locator:
        """A size's card, by what it says first: ``No GPU``, ``Quarter``, ``Custom``…"""
        title = self.page.locator(".carrel-name").get_by_text(name, exact=True)
        return self.page.locator(".carrel-card").filter(has=title)

    def size(self, name: str) -> Locator:
        """The radio button on a card."""
        return self.card(name).get_by_role("radio")

    def start(self) -> None:
        """Sends the form."""
        self.page.get_by_role("button", name="Start", exact=True).click()

    def wait_for_lab(self) -> None:
        """Waits through the progress page until JupyterLab is there."""
        self.page.wait_for_url(re.compile(r"/user/[^/]+/lab"), timeout=PATIENCE_MS)

    # ---- the broker's page -------------------------------------------------------------------

    def row(self, section: str, text: str) -> Locator:
        """The row of a table on the GPU page that says ``text``."""
        table = self.page.get_by_role("region", name=section)
        return table.get_by_role("row").filter(has_text=text)

    # ---- JupyterLab --------------------------------------------------------------------------

    def open_notebook(self, path: str) -> Locator:
        """Opens a notebook of one's running server in JupyterLab, with its kernel ready."""
        self.page.goto(f"{self.url}/user-redirect/lab/tree/{path}")
        # Until the kernel is there, JupyterLab would ask which one to take.
        expect(self.page.locator("#jp-main-statusbar")).to_have_text(
            re.compile(rf"Python 3.*\| Idle.*{re.escape(path)}"), timeout=PATIENCE_MS
        )
        return self.page.locator(".jp-NotebookPanel:visible")

    def run_all(self, notebook: Locator, until: str | None = None) -> None:
        """*Run → Run All Cells*, and waits until every code cell has run, or until there is an
        output of the MIME type ``until``."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        if until is not None:
            output = notebook.locator(f"[data-mime-type='{until}']")
            output.first.wait_for(timeout=PATIENCE_MS)
            return
        for prompt in notebook.locator(".jp-CodeCell .jp-InputArea-prompt").all():
            expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=PATIENCE_MS)

    def picture(self, image: Locator) -> dict[str, Any]:
        """``width`` and ``height`` of an image in pixels, and how many ``colours`` it has."""
        found: dict[str, Any] = image.evaluate(
            """async (image) => {
              await image.decode();
              const canvas = document.createElement("canvas");
              canvas.width = image.naturalWidth;
              canvas.height = image.naturalHeight;
              const pen = canvas.getContext("2d");
              pen.drawImage(image, 0, 0);
              const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
              const colours = new Set(new Uint32Array(data.buffer));
              return { width: canvas.width, height: canvas.height, colours: colours.size };
            }"""
        )
        return found
