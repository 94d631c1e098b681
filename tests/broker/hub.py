"""A stand-in for the hub's API: OAuth, tokens, static files. The real hub is in ``tests/e2e``.

It answers as JupyterHub documents: authorize redirects back with a code, the token endpoint
checks client, secret and PKCE verifier, ``/user`` gives name and scopes of a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlparse

from jupyterhub._data import DATA_FILES_PATH

SECRET = "api-token-of-the-service"
ACCESS = "access:services!service=gpu"
STATIC = Path(DATA_FILES_PATH) / "static"


class Hub:
    """``tokens``: token → user model; ``down``: answer 503 to everything."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, tuple[str, str]] = {}  # code → user, challenge
        self.broker = ""
        self.down = False
        self.asked = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.get(self)

            def do_POST(self) -> None:
                hub.post(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def person(self, name: str, *scopes: str) -> str:
        """Adds a person; returns a token of theirs."""
        token = f"hub-token-of-{name}"
        self.tokens[token] = {"kind": "user", "name": name, "scopes": [ACCESS, *scopes]}
        return token

    def environment(self) -> dict[str, str]:
        """What the hub gives a managed service."""
        return {
            "JUPYTERHUB_API_TOKEN": SECRET,
            "JUPYTERHUB_API_URL": f"{self.url}/hub/api",
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_HOST": self.url,
            "JUPYTERHUB_CLIENT_ID": "service-gpu",
            "JUPYTERHUB_SERVICE_NAME": "gpu",
            "JUPYTERHUB_SERVICE_PREFIX": "/services/gpu/",
            "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:0",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([ACCESS]),
            "JUPYTERHUB_OAUTH_SCOPES": json.dumps([ACCESS, "custom:gpu:use", "custom:gpu:admin"]),
        }

    def get(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlparse(request.path)
        if self.down:
            _answer(request, 503, {})
        elif parts.path == "/hub/api/oauth2/authorize":
            asked = {k: v[0] for k, v in parse_qs(parts.query).items()}
            assert asked["client_id"] == "service-gpu"
            user = (request.headers.get("Cookie") or "").partition("as=")[2].partition(";")[0]
            code = f"code-{len(self.codes)}"
            self.codes[code] = (user, asked.get("code_challenge", ""))
            back = urlencode({"code": code, "state": asked["state"]})
            request.send_response(302)
            request.send_header("Location", f"{self.broker}{asked['redirect_uri']}?{back}")
            request.end_headers()
        elif parts.path == "/hub/api/user":
            self.asked += 1
            _, _, token = (request.headers.get("Authorization") or "").partition(" ")
            model = self.tokens.get(token)
            _answer(request, 200 if model else 403, model or {"message": "no"})
        elif parts.path == "/hub/logo":
            _file(request, STATIC / "images" / "jupyterhub-80.png")
        elif parts.path.startswith("/hub/static/"):
            _file(request, STATIC / parts.path.removeprefix("/hub/static/"))
        else:
            _answer(request, 404, {})

    def post(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        given = {k: v[0] for k, v in parse_qs(body).items()}
        user, challenge = self.codes.pop(given["code"], ("", ""))
        digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        right = given["client_secret"] == SECRET and (not challenge or proof == challenge)
        token = f"hub-token-of-{user}"
        if request.path == "/hub/api/oauth2/token" and right and token in self.tokens:
            _answer(request, 200, {"access_token": token, "token_type": "Bearer"})
        else:
            _answer(request, 400, {"error": "invalid_grant"})


def _answer(request: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    _send(request, status, "application/json", json.dumps(body).encode())


def _file(request: BaseHTTPRequestHandler, path: Path) -> None:
    if path.is_file():
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        _send(request, 200, kind, path.read_bytes())
    else:
        _answer(request, 404, {})


def _send(request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
