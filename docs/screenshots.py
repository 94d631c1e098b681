"""Takes the README's pictures from a running demo, in a real Chromium: ``make screenshots``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1200, "height": 800}
SPAWN_SIZE = {"width": 1200, "height": 640}
sys.path.insert(0, str(ROOT))

from tests.support.browser import chromium, log_in, run_notebook, start  # noqa: E402
from tests.support.demo import Demo  # noqa: E402


def take(demo: Demo) -> None:
    """The spawn page while others hold slices, and the Mandelbrot notebook, run."""
    # So that the page shows a pool in use.
    demo.broker.create_lease(4096, 10.0, user="ben", server_name="pictures")
    demo.broker.create_lease(2048, 5.0, user="cleo", server_name="pictures")
    with chromium() as browser:
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5)
        log_in(page, demo.url, "ada", demo.password)
        page.goto(f"{demo.url}/hub/spawn")
        expect(page.get_by_role("radio", name="Quarter")).to_be_checked()
        page.screenshot(path=IMAGES / "spawn.png", clip={"x": 0, "y": 0, **SPAWN_SIZE})
        start(page, "Quarter")
        panel = run_notebook(page, "2-mandelbrot.ipynb", cells=5)
        pictures = panel.locator(".jp-OutputArea img")
        expect(pictures).to_have_count(2)
        pictures.first.scroll_into_view_if_needed()
        page.keyboard.press("Control+b")  # the file browser makes room
        page.wait_for_timeout(1500)
        pictures.first.evaluate("image => image.scrollIntoView({block: 'end'})")
        page.wait_for_timeout(500)
        page.screenshot(path=IMAGES / "mandelbrot.png")


def main() -> None:
    """Runs a demo of its own, so that the pictures always look the same."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="carrel-pictures-") as directory:
        demo = Demo(Path(directory), "--gpus=2")
        try:
            take(demo)
        finally:
            demo.stop()
    print(f"Wrote {IMAGES / 'spawn.png'} and {IMAGES / 'mandelbrot.png'}")


if __name__ == "__main__":
    main()
