"""What a person is shown when they cannot have a GPU, or lose it, and the way on from there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import PATIENCE_MS, chromium, log_in, run_notebook, start
from tests.support.demo import Demo
from tests.support.hub import Person

Login = Callable[[str], Person]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def telephone(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    yield page
    page.context.close()


@pytest.fixture
def office(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.context.close()


def test_too_late_for_a_slice(demo: Demo, login: Login, telephone: Page) -> None:
    login("ben")
    log_in(telephone, demo.url, "ben", demo.password)
    # What is free changes between the last look at the pool and the click.
    telephone.route(
        "**/hub/spawn", lambda r: r.fallback() if r.request.is_navigation_request() else r.abort()
    )
    telephone.goto(f"{demo.url}/hub/spawn")
    sideways = "document.documentElement.scrollWidth - window.innerWidth"
    assert telephone.evaluate(sideways) <= 0
    telephone.get_by_role("radio", name="Half").check()
    taken = [
        demo.broker.create_lease(4096, 5, user=user, server_name="tests", ttl_s=90)
        for user in ("eva", "finn")
    ]
    telephone.get_by_role("button", name="Start", exact=True).click()
    told = telephone.get_by_role("alert").filter(has_text="Your server did not start.")
    expect(told).to_contain_text("4,096 MiB")
    expect(told).to_contain_text("free")
    assert telephone.get_by_text("Error:").filter(visible=True).count() == 0  # said once
    assert telephone.evaluate(sideways) <= 0
    assert demo.leases("ben") == []

    told.get_by_role("button", name="Start without a GPU").click()
    telephone.wait_for_url(re.compile("/user/ben/lab"), timeout=PATIENCE_MS)
    assert demo.leases("ben") == []
    for lease in taken:
        demo.broker.end_lease(lease.id)


def test_an_ended_session(demo: Demo, login: Login, browser: Browser, office: Page) -> None:
    login("ada")
    desk = browser.new_page(viewport={"width": 1280, "height": 900})
    log_in(desk, demo.url, "ada", demo.password)
    desk.goto(f"{demo.url}/hub/spawn")
    start(desk, "Quarter")
    notebook = run_notebook(desk, "1-first-steps.ipynb", cells=6)
    (lease,) = demo.leases("ada")

    # The administrator asks first, then ends the program's session; the slice stays ada's.
    log_in(office, demo.url, "admin", demo.password)
    office.goto(f"{demo.url}/services/gpu/")
    sessions = office.get_by_role("region", name="Sessions")
    row = sessions.get_by_role("row").filter(has_text="1-first-steps.ipynb")
    expect(row).to_contain_text("ada", timeout=20_000)
    asked: list[str] = []
    office.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    row.get_by_role("button", name="End the session").click()
    expect(row).to_have_count(0)
    assert len(asked) == 1
    assert "1-first-steps.ipynb" in asked[0]
    assert demo.broker.sessions() == []

    # Her notebook says so at its next call; a restarted kernel works again.
    desk.get_by_role("menuitem", name="Run", exact=True).click()
    desk.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    told = notebook.get_by_text("the GPU session ended: Ended by admin.")
    expect(told).to_be_visible(timeout=PATIENCE_MS)
    expect(notebook.get_by_text("CUDA_ERROR_SYSTEM_NOT_READY").first).to_be_visible()
    desk.get_by_role("menuitem", name="Kernel", exact=True).click()
    desk.get_by_role("menuitem", name=re.compile("^Restart Kernel and Run All")).click()
    desk.locator(".jp-Dialog .jp-mod-accept").click()
    expect(notebook.get_by_text("All 1,000,000 sums are right.")).to_be_visible(timeout=PATIENCE_MS)
    expect(told).to_have_count(0)
    assert [each.id for each in demo.leases("ada")] == [lease.id]
    desk.context.close()
