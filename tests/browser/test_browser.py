"""A student, and an administrator, at a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import chromium, log_in, run_notebook, start
from tests.support.demo import Demo, eventually
from tests.support.hub import Person


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh window; what goes wrong in the pages' scripts fails the test."""
    window = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    window.on("pageerror", lambda error: problems.append(str(error)))
    yield window
    window.context.close()
    assert not problems


def test_a_student_draws_the_mandelbrot_set(
    demo: Demo, login: Callable[[str], Person], page: Page, browser: Browser
) -> None:
    ada = login("ada")
    log_in(page, demo.url, "ada", demo.password)
    page.goto(f"{demo.url}/hub/spawn")
    expect(page.get_by_text("8,192 of 8,192 MiB")).to_be_visible()
    # Above the limit of this site: to be seen, not to be had, and it says why.
    whole = page.get_by_role("radio", name="Whole")
    expect(whole).to_be_disabled()
    expect(page.locator(f"#{whole.get_attribute('aria-describedby')}")).to_contain_text(
        "above your limit of 4,096 MiB"
    )
    # The custom numbers show where they count.
    memory = page.get_by_label("GPU memory in MiB")
    page.get_by_role("radio", name="Quarter").check()  # whatever she chose last time
    expect(memory).to_be_hidden()
    page.get_by_role("radio", name="Custom").check()
    expect(memory).to_be_editable()

    # Live: somebody else takes half, and the page follows without being touched.
    half = demo.broker.create_lease(4096, 10.0, user="cleo", server_name="tests")
    expect(page.get_by_text("4,096 of 8,192 MiB")).to_be_visible(timeout=20_000)
    other = demo.broker.create_lease(3000, 1.0, user="admin", server_name="tests")
    quarter = page.get_by_role("radio", name="Quarter")
    expect(quarter).to_be_disabled(timeout=20_000)
    demo.broker.end_lease(half.id)
    demo.broker.end_lease(other.id)
    expect(quarter).to_be_enabled(timeout=20_000)

    start(page, "Quarter")
    panel = run_notebook(page, "2-mandelbrot.ipynb", cells=5)
    expect(panel.locator(".jp-OutputArea img")).to_have_count(2)
    expect(panel.locator(".jp-OutputArea", has_text="of the pixels are the same")).to_be_visible()
    expect(panel.locator(".jp-RenderedText[data-mime-type*=stderr]")).to_have_count(0)
    (session,) = eventually(demo.broker.sessions, "the session is reported")
    assert (session.user, session.name) == ("ada", "2-mandelbrot.ipynb")

    # Who holds what: ada sees her own, the administrator all of it and may end it.
    page.goto(f"{demo.url}/services/gpu/")
    expect(page.get_by_role("heading", name="My GPU slices")).to_be_visible()
    context = browser.new_context()
    office = context.new_page()
    log_in(office, demo.url, "admin", demo.password)
    office.get_by_role("button", name=re.compile("Services")).click()
    office.get_by_role("link", name="gpu", exact=True).click()
    expect(office.get_by_role("heading", name="GPU pool")).to_be_visible()
    expect(office.get_by_role("cell", name="ada").first).to_be_visible()
    expect(office.get_by_text("2-mandelbrot.ipynb").first).to_be_visible()
    context.close()
    ada.stop()
    assert not demo.leases("ada")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_spawn_page_is_accessible(demo: Demo, browser: Browser, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    log_in(page, demo.url, "ben", demo.password)
    page.goto(f"{demo.url}/hub/spawn")
    # Every control has a name, every meter a text, and the keyboard reaches the choice.
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('[data-carrel-form] input')]"
        ".filter(e => !e.labels.length).map(e => e.outerHTML)"
    )
    assert unnamed == []
    meters = page.get_by_role("meter")
    assert meters.count() == 2 * len(demo.broker.capacity().gpus)
    for meter in meters.all():
        assert " of " in str(meter.get_attribute("aria-valuetext"))
    expect(page.locator("[aria-live=polite]#carrel-status")).to_have_count(1)
    page.get_by_role("radio", name="Quarter").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="No GPU")).to_be_checked()
    # Text is readable in this colour scheme: WCAG AA, 4.5 to 1.
    ratios = json.loads(page.evaluate(CONTRAST))
    assert ratios
    low = {text: ratio for text, ratio in ratios if ratio < 4.5}
    assert not low
    context.close()


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const read = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const behind = element => {
    let layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(getComputedStyle(e).backgroundColor);
    canvas.clearRect(0, 0, 1, 1);
    for (const layer of ['white', ...layers.reverse()]) {
      canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const luminance = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return JSON.stringify([...document.querySelectorAll('[data-carrel-form] *')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => e.checkVisibility() && !['STYLE', 'SCRIPT'].includes(e.tagName))
    .filter(e => !e.closest('.carrel-card')?.querySelector('input:disabled'))
    .map(e => {
      const [a, b] = [luminance(read(getComputedStyle(e).color)), luminance(behind(e))];
      return [e.textContent.trim().slice(0, 40),
              (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    }));
}"""
