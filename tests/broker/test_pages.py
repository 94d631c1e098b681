"""The page and hub tokens, against a stand-in for the hub's API; in Chromium at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from gpu_broker.client import BrokerClient, Denied
from tests.broker.hub import Hub
from tests.broker.support import Agent, Broker, FakeGpu, eventually

CHROMIUM = "/usr/bin/chromium"


@dataclass
class Site:
    """A hub, its broker, a node, and people's tokens."""

    hub: Hub
    broker: Broker
    agent: Agent
    tokens: dict[str, str]

    def client(self, name: str) -> BrokerClient:
        return BrokerClient(self.broker.url, self.tokens[name])

    def browser(self, name: str) -> httpx.Client:
        """One who is logged in to the hub as ``name``."""
        return httpx.Client(cookies={"as": name}, follow_redirects=True, timeout=20)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    hub = Hub()
    tokens = {
        "ada": hub.person("ada", "custom:gpu:use!user=ada"),
        "ben": hub.person("ben", "custom:gpu:use"),
        "root": hub.person("root", "custom:gpu:admin"),
        "dora": hub.person("dora", "custom:gpu:use!user=ada", "custom:gpu:admin!group=x"),
    }
    broker = Broker(
        tmp_path_factory.mktemp("page"),
        "--BrokerApp.heartbeat_s=0.5",
        "--BrokerApp.reconcile_interval_s=0.2",
        "--BrokerApp.hub_auth_cache_s=2",
        "--BrokerApp.max_vram_mib_per_user=6000",
        env=hub.environment(),
    ).start()
    hub.broker = broker.url.removesuffix("/services/gpu/")
    gpus = [FakeGpu("GPU-0"), FakeGpu("GPU-1", index=1)]
    agent = Agent(broker.fleet, gpus=gpus).connected()
    yield Site(hub, broker, agent, tokens)
    agent.stop()
    broker.stop()
    hub.close()


@pytest.fixture(autouse=True)
def tidy(site: Site) -> Iterator[None]:
    yield
    with site.client("root") as root:
        for lease in root.leases():
            root.end_lease(lease.id)


def lease_with_program(site: Site, name: str, notebook: str = "mandelbrot.ipynb") -> str:
    with site.client(name) as client:
        lease = client.create_lease(2048, 2.5, name="4 GiB for the lab")
        client.wait_active(lease.id, 10)
        site.agent.run_program(lease.id, f"s-{lease.id}", name=notebook, vram_bytes=300 << 20)
        eventually(client.sessions, "reported")
    return lease.id


def test_hub_tokens_and_scopes(site: Site) -> None:
    with site.client("ada") as ada, site.client("ben") as ben, site.client("root") as root:
        lease = ada.create_lease(1024, 1)
        assert lease.user == "ada"  # a scope filtered to oneself is enough
        assert ben.leases() == []
        assert root.create_lease(64, 1, user="ben").user == "ben"
    with site.client("dora") as dora, pytest.raises(Denied, match="dora does not hold"):
        dora.capacity()  # somebody else's filter, and an admin scope that is only partial
    with BrokerClient(site.broker.url, "unknown-token") as nobody:
        with pytest.raises(Denied) as error:
            nobody.capacity()
        assert error.value.status == 401


def test_the_hub_is_asked_once_in_a_while_and_believed_when_it_changes_its_mind(site: Site) -> None:
    token = site.hub.person("eve", "custom:gpu:use")
    with BrokerClient(site.broker.url, token) as eve:
        eve.capacity()
        asked = site.hub.asked
        for _ in range(10):
            eve.capacity()
        assert site.hub.asked - asked <= 2
        site.hub.tokens.pop(token)

        def refused() -> bool:
            try:
                eve.capacity()
            except Denied as error:
                return error.status == 401
            return False

        eventually(refused, "revoked", 6)


def test_a_hub_that_is_down_is_said_so(site: Site) -> None:
    site.hub.down = True
    try:
        answer = httpx.get(
            site.broker.url + "api/v1/capacity", headers={"Authorization": "Bearer new-token"}
        )
    finally:
        site.hub.down = False
    assert answer.status_code == 503
    assert "The hub cannot be asked" in answer.json()["detail"]


def test_a_student_sees_and_ends_only_what_is_theirs(site: Site) -> None:
    mine = lease_with_program(site, "ada", "ada-lab.ipynb")
    other = lease_with_program(site, "ben", "ben-secret.ipynb")
    with site.browser("ada") as browser:
        page = browser.get(site.broker.url)
        assert page.status_code == 200
        assert "My GPU slices" in page.text
        assert "ada-lab.ipynb" in page.text
        assert "ben" not in page.text
        assert "node-1 · GPU" in page.text
        assert '<h2 class="h5" id="carrel-gpus">' not in page.text
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert xsrf is not None
        end = f"{site.broker.url}leases/{{}}/end"
        assert browser.post(end.format(mine)).status_code == 403  # without the XSRF token
        assert browser.post(end.format(mine), data={"_xsrf": "wrong"}).status_code == 403
        answer = browser.post(end.format(other), data={"_xsrf": xsrf[1]})
        assert answer.status_code == 404
        assert "of yours" in answer.text
        done = browser.post(end.format(mine), data={"_xsrf": xsrf[1]})
        assert done.status_code == 200
        assert "The lease is ended." in done.text
        assert "You hold no slice." in done.text
    with site.client("ben") as ben:
        assert ben.lease(other).state == "active"
        with site.client("root") as root:
            assert root.lease(mine).reason == "released"


def test_an_admin_sees_all_and_can_end_it(site: Site) -> None:
    ada, ben = (lease_with_program(site, name, f"{name}.ipynb") for name in ("ada", "ben"))
    with site.browser("root") as browser:
        page = browser.get(site.broker.url).text
        for text in ("GPU pool", "ada.ipynb", "ben.ipynb", "online", "4,096 of 8,192 MiB"):
            assert text in page, text
        assert page.count('role="meter"') == 6  # three figures of two GPUs
        assert 'aria-valuetext="4,096 of 8,192 MiB"' in page
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', page)
        assert xsrf is not None
        session = f"{site.broker.url}sessions/s-{ada}/end"
        assert "The session is ended." in browser.post(session, data={"_xsrf": xsrf[1]}).text
        assert f"s-{ada}" not in site.agent.sessions
        browser.post(f"{site.broker.url}leases/{ben}/end", data={"_xsrf": xsrf[1]})
    with site.client("ben") as client:
        ended = client.lease(ben)
        assert ended.reason == "reclaimed"
        assert ended.message == "Ended by root; ask them why."


def test_names_from_programs_are_text_not_markup(site: Site) -> None:
    lease_with_program(site, "ada", "<script>alert(1)</script>.ipynb")
    with site.browser("root") as browser:
        page = browser.get(site.broker.url).text
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_who_may_not_see_the_page(site: Site) -> None:
    with site.browser("dora") as browser:
        answer = browser.get(site.broker.url)
        assert answer.status_code == 403
        assert "dora does not hold the scope custom:gpu:use" in answer.text
    stranger = httpx.get(site.broker.url)
    assert stranger.status_code == 302
    assert stranger.headers["Location"].startswith(f"{site.hub.url}/hub/api/oauth2/authorize")
    fragment = httpx.get(site.broker.url, headers={"X-Carrel-Fragment": "1"})
    assert fragment.status_code == 401
    headers = stranger.headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_one_stays_logged_in_over_a_restart_of_the_broker(site: Site) -> None:
    with site.browser("ada") as browser:
        assert browser.get(site.broker.url).status_code == 200
        site.broker.kill()
        site.broker.start()
        eventually(site.agent.synced.is_set, "the agent is back")
        answer = browser.get(site.broker.url, follow_redirects=False)
        assert answer.status_code == 200


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def test_the_page_in_a_browser_keeps_itself_current(site: Site, chromium: Page) -> None:
    faults: list[str] = []
    chromium.on("pageerror", lambda error: faults.append(str(error)))
    chromium.context.add_cookies([{"name": "as", "value": "root", "url": site.hub.url}])
    chromium.goto(site.broker.url)
    assert chromium.title() == "GPUs"
    chromium.get_by_text("Nobody holds a slice").wait_for()
    lease = lease_with_program(site, "ada")
    row = chromium.get_by_role("row").filter(has_text="mandelbrot.ipynb")
    row.wait_for(timeout=15_000)  # without loading the page again
    assert "300 MiB" in row.inner_text()
    chromium.on("dialog", lambda dialog: dialog.accept())
    chromium.get_by_role("button", name="End the lease of ada").click()
    chromium.get_by_text("The lease is ended.").wait_for(timeout=15_000)
    with site.client("root") as root:
        assert root.lease(lease).reason == "reclaimed"
    assert faults == []
