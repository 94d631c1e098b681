"""``carrel-broker`` as an administrator meets it: options, configuration file, refusals."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_broker.app import BrokerApp
from tests.broker.support import ROOT


def run(tmp_path: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTERHUB_", "CARREL_"))}
    return subprocess.run(
        [sys.executable, "-m", "gpu_broker.app", *options],
        cwd=tmp_path,
        env=clean | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_option_explains_itself() -> None:
    for name, trait in BrokerApp.class_traits(config=True).items():
        assert len(trait.help) > 20 or not name.startswith(tuple("abcdefghijklmnopqrstuvwxyz")), (
            name
        )


def test_help_all(tmp_path: Path) -> None:
    out = run(tmp_path, "--help-all")
    assert out.returncode == 0
    assert "--BrokerApp.lease_ttl_s" in out.stdout
    assert "carrel_broker_config.py" in out.stdout


def test_a_generated_configuration_is_read_back(tmp_path: Path) -> None:
    out = run(tmp_path, "--generate-config")
    assert out.returncode == 0, out.stderr
    path = tmp_path / "carrel_broker_config.py"
    assert "# c.BrokerApp.lease_ttl_s = 180.0" in path.read_text()
    path.write_text("c.BrokerApp.lease_ttl_s = 77\nc.BrokerApp.port = 1234\n")
    app = BrokerApp()
    app.initialize([f"--config={path}", "--port=99"])
    assert (app.lease_ttl_s, app.port) == (77, 99)  # the command line wins
    again = run(tmp_path, "--generate-config")
    assert again.returncode == 1
    assert "exists" in again.stderr


def test_the_database_can_be_upgraded_alone(tmp_path: Path) -> None:
    out = run(tmp_path, "--upgrade-db")
    assert out.returncode == 0, out.stderr
    assert (tmp_path / "carrel-broker.sqlite").stat().st_size > 0


def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        out = run(tmp_path, f"--port={port}", "--fleet-port=0")
        assert f"cannot listen on ip 127.0.0.1, port {port}: Address already in use" in out.stderr
        out = run(tmp_path, "--port=0", f"--fleet-port={port}")
        assert f"cannot listen on fleet_ip 127.0.0.1, fleet_port {port}" in out.stderr
    assert out.returncode == 1
    assert "Traceback" not in out.stderr


def test_defaults_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", "http://127.0.0.1:10101")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/base/services/slices/")
    app = BrokerApp()
    assert (app.ip, app.port, app.service_prefix) == ("127.0.0.1", 10101, "/base/services/slices/")
    monkeypatch.delenv("JUPYTERHUB_SERVICE_URL")
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX")
    app = BrokerApp(service_prefix="gpu")
    assert (app.ip, app.port, app.service_prefix) == ("127.0.0.1", 8095, "/gpu/")
    assert app.fleet_ip == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fleet-ip=0.0.0.0"], "not loopback"),
        (["--token-file=none.json"], "none.json"),
        (["--token-file=broken.json"], "not a token file"),
        (["--token-file=short.json"], "shorter than 16"),
        (["--node-token-file=none"], "node_token_file"),
        (["--BrokerApp.lease_ttl_s=-1"], "lease_ttl_s must be more than 0"),
        (["--BrokerApp.heartbeat_s=nan"], "heartbeat_s must be more than 0"),
        (["--BrokerApp.max_vram_mib_per_user=-1"], "0 (no limit) or more"),
        (["--database=sqlite://"], "name a file"),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    tmp_path: Path, options: list[str], words: str
) -> None:
    (tmp_path / "broken.json").write_text('{"a-secret-token-here": {"scopes": 3}}')
    (tmp_path / "short.json").write_text('{"short": {"user": "ada"}}')
    out = run(tmp_path, "--port=0", "--fleet-port=0", *options)
    assert out.returncode != 0
    assert words in out.stderr + out.stdout
    assert "Traceback" not in out.stderr
    assert "a-secret-token-here" not in out.stderr
