"""A person at a real hub: logs in, fills in the spawn form, runs cells over the websocket."""

from __future__ import annotations

import html
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import websocket


class CellError(Exception):
    """A cell raised; the text is ``ename: evalue``."""


@dataclass
class Person:
    """One browser, so to say: cookies and the hub's address."""

    url: str
    name: str
    password: str
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=60, follow_redirects=True)
        page = self.http.get("/hub/login")
        answer = self.http.post(
            "/hub/login",
            params={"_xsrf": self.xsrf(), "next": "/hub/home"},
            data={"username": self.name, "password": self.password, "_xsrf": self.xsrf()},
        )
        assert page.status_code == 200
        assert answer.status_code == 200, answer.text[:2000]
        assert answer.url.path == "/hub/home", answer.url

    def xsrf(self) -> str:
        return next(
            c.value or "" for c in self.http.cookies.jar if c.name == "_xsrf" and c.path == "/hub/"
        )

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The hub's API, as the pages use it: by cookie."""
        return self.http.request(
            method, f"/hub/api/{path}", headers={"X-XSRFToken": self.xsrf()}, **options
        )

    # ---- servers -----------------------------------------------------------------------------

    def form(self) -> str:
        """The spawn page."""
        answer = self.http.get("/hub/spawn")
        assert answer.status_code == 200, answer.text[:2000]
        assert "carrel-form" in answer.text, "this is not the spawn page: " + str(answer.url)
        return answer.text

    def submit(self, **fields: str) -> httpx.Response:
        """Sends the form to where the page says."""
        found = re.search(r'action="([^"]+)"', self.form())
        assert found
        return self.http.post(html.unescape(found[1]), data=fields)

    def start(self, timeout_s: float = 90, **fields: str) -> None:
        """Sends the form and waits until the server runs."""
        answer = self.submit(**fields)
        assert answer.status_code < 400, denial(answer.text) or answer.text[:2000]
        self.wait_ready(timeout_s)

    def server(self) -> dict[str, Any] | None:
        """The hub's model of the default server, if it has one."""
        answer = self.api("GET", f"users/{self.name}")
        answer.raise_for_status()
        servers: dict[str, Any] = answer.json()["servers"]
        return servers.get("")

    def wait_ready(self, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not ((server := self.server()) and server["ready"]):
            assert time.monotonic() < deadline, f"{self.name}'s server is not ready: {server}"
            assert server is not None, f"{self.name}'s server did not start"
            time.sleep(0.2)

    def stop(self, timeout_s: float = 40) -> int:
        """Stops the server; returns the hub's status of the request."""
        answer = self.api("DELETE", f"users/{self.name}/server")
        self.wait_stopped(timeout_s)
        return answer.status_code

    def wait_stopped(self, timeout_s: float = 40) -> None:
        deadline = time.monotonic() + timeout_s
        while self.server() is not None:
            assert time.monotonic() < deadline, f"{self.name}'s server does not stop"
            time.sleep(0.2)

    def progress(self) -> list[str]:
        """The messages shown while the server starts."""
        answer = self.api("GET", f"users/{self.name}/server/progress")
        events = [
            json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")
        ]
        return [event.get("message", "") for event in events]

    def token(self) -> str:
        """A token as the hub's token page makes it."""
        answer = self.api("POST", f"users/{self.name}/tokens", json={"expires_in": 3600})
        answer.raise_for_status()
        return str(answer.json()["token"])

    def kernel(self, notebook: str = "test.ipynb") -> Kernel:
        """A kernel of a notebook, as JupyterLab starts one."""
        return Kernel(self.url, self.name, self.token(), notebook)

    def close(self) -> None:
        self.http.close()


class Kernel:
    """A kernel on a person's server, over its websocket."""

    def __init__(self, url: str, name: str, token: str, notebook: str) -> None:
        self.http = httpx.Client(
            base_url=f"{url}/user/{name}/api",
            headers={"Authorization": f"token {token}"},
            timeout=60,
        )
        answer = self.http.post(
            "/sessions",
            json={
                "path": notebook,
                "name": notebook,
                "type": "notebook",
                "kernel": {"name": "python3"},
            },
        )
        assert answer.status_code == 201, answer.text
        self.session = answer.json()["id"]
        self.id = answer.json()["kernel"]["id"]
        self._token = token
        self._socket_url = (
            f"{url.replace('http', 'ws', 1)}/user/{name}/api/kernels/{self.id}/channels"
        )
        self._connect()

    def _connect(self) -> None:
        self.socket = websocket.create_connection(
            self._socket_url, header=[f"Authorization: token {self._token}"], timeout=120
        )

    def run(self, code: str, timeout_s: float = 120) -> str:
        """Runs a cell; returns what it printed and its value's text. Raises :class:`CellError`."""
        return "".join(
            content["text"] if kind == "stream" else content["data"].get("text/plain", "")
            for kind, content in self.outputs(code, timeout_s)
        )

    def outputs(self, code: str, timeout_s: float = 120) -> list[tuple[str, dict[str, Any]]]:
        """Runs a cell; returns its outputs as (message type, content)."""
        message = self.send(code)
        deadline = time.monotonic() + timeout_s
        found: list[tuple[str, dict[str, Any]]] = []
        while True:
            self.socket.settimeout(max(0.1, deadline - time.monotonic()))
            reply = json.loads(self.socket.recv())
            if reply["parent_header"].get("msg_id") != message:
                continue
            kind, content = reply["msg_type"], reply["content"]
            if kind in ("stream", "execute_result", "display_data"):
                found.append((kind, content))
            elif kind == "error":
                raise CellError(f"{content['ename']}: {content['evalue']}")
            elif kind == "status" and content["execution_state"] == "idle":
                return found

    def send(self, code: str) -> str:
        """Sends a cell; returns the message's id."""
        message = uuid.uuid4().hex
        self.socket.send(
            json.dumps(
                {
                    "header": {
                        "msg_id": message, "msg_type": "execute_request", "username": "",
                        "session": self.session, "version": "5.3", "date": "",
                    },
                    "parent_header": {}, "metadata": {}, "channel": "shell",
                    "content": {
                        "code": code, "silent": False, "store_history": False,
                        "user_expressions": {}, "allow_stdin": False, "stop_on_error": True,
                    },
                }
            )
        )  # fmt: skip
        return message

    def restart(self) -> None:
        answer = self.http.post(f"/kernels/{self.id}/restart")
        assert answer.status_code == 200, answer.text
        self.socket.close()
        self._connect()

    def shut_down(self) -> None:
        self.socket.close()
        assert self.http.delete(f"/sessions/{self.session}").status_code == 204
        self.http.close()


def denial(page: str) -> str | None:
    """Why the last start was denied, as the spawn page says it."""
    found = re.search(r'id="carrel-denial">(.*?)</div>', page, re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[1])).split()) if found else None
