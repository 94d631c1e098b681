"""Takes the README's pictures from a running demo, in Chromium: ``make screenshots``.

Starts a demo of its own on a free port, with other people's slices in it, so that the pictures show
a pool that is used; ends it afterwards.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"
sys.path.insert(0, str(ROOT))

from tests.support.browser import Visitor, chromium  # noqa: E402
from tests.support.demo import Demo, eventually  # noqa: E402

# Device pixels per CSS pixel: pictures stay sharp on a dense screen.
SCALE = 1.5


def take(demo: Demo) -> None:
    """Writes ``spawn.png``, ``mandelbrot.png`` and ``pool.png``."""
    for user, vram_mib, tflops in (("ben", 4096, 10), ("cleo", 3072, 6)):
        demo.broker.create_lease(vram_mib, tflops, user=user, ttl_s=600)
    with chromium() as browser:
        ada = Visitor(browser, demo.url, width=1100, height=720, scale=SCALE)
        ada.log_in("ada", demo.password)
        ada.spawn_page()
        ada.size("Quarter").check()
        ada.page.screenshot(path=IMAGES / "spawn.png")
        ada.start()
        ada.page.wait_for_url(f"{demo.url}/user/ada/lab**")
        notebook = ada.open_notebook("2-mandelbrot.ipynb")
        ada.run_all(notebook)
        # Code and picture together.
        notebook.locator(".jp-CodeCell").nth(2).evaluate("cell => cell.scrollIntoView()")
        ada.page.wait_for_timeout(500)
        ada.page.screenshot(path=IMAGES / "mandelbrot.png")

        admin = Visitor(browser, demo.url, width=1100, height=760, scale=SCALE)
        admin.log_in("admin", demo.password)
        eventually(demo.broker.sessions, "the notebook's session is reported")
        admin.page.goto(f"{demo.url}/services/gpu/")
        admin.row("Sessions", "2-mandelbrot.ipynb").wait_for()
        admin.page.screenshot(path=IMAGES / "pool.png")


def main() -> None:
    """The script."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        demo = Demo(Path(directory))
        try:
            take(demo)
        finally:
            demo.broker.close()
            demo.stop()
    for picture in sorted(IMAGES.glob("*.png")):
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
