"""A hub of one's own with the configuration of the README; and the demo's own beginning and end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from hub_plugin.ports import free_ports
from tests.support.demo import Demo, eventually
from tests.support.hub import Person

ROOT = Path(__file__).parents[2]
PROXY = ROOT / ".cache/node/node_modules/.bin"


@contextlib.contextmanager
def running(argv: list[str], directory: Path, log: str) -> Iterator[psutil.Process]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTERHUB_", "CARREL_"))}
    paths = [str(Path(sys.executable).parent), str(PROXY), env["PATH"]]
    with (directory / log).open("wb") as out:
        process = psutil.Popen(
            argv, cwd=directory, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            env=env | {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.is_running():
            process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_hub_starts_the_broker_and_takes_it_along(tmp_path: Path) -> None:
    hub, hub_api, proxy_api, broker, fleet = free_ports(5)
    (tmp_path / "jupyterhub_config.py").write_text(
        textwrap.dedent(f"""
            from hub_plugin import configure

            c = get_config()
            c.JupyterHub.bind_url = "http://127.0.0.1:{hub}"
            c.JupyterHub.hub_port = {hub_api}
            c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
            c.JupyterHub.authenticator_class = "dummy"
            c.Authenticator.admin_users = {{"admin"}}
            c.Authenticator.allow_all = True
            c.DummyAuthenticator.password = "only for this test"
            c.Spawner.args = {["--allow-root"] if os.geteuid() == 0 else []}
            c.SimpleLocalProcessSpawner.home_dir_template = "{tmp_path}/homes/{{username}}"
            configure(
                c,
                sizes=[{{"name": "small", "label": "Small", "vram_mib": 256, "tflops": 1}}],
                broker_port={broker},
                broker_arguments=["--fleet-port={fleet}"],
            )
            """)
    )
    url = f"http://127.0.0.1:{hub}"
    with running([sys.executable, "-m", "jupyterhub"], tmp_path, "hub.log") as process:
        eventually(lambda: answers(f"{url}/hub/health"), "the hub starts", 60)
        eventually(lambda: answers(f"{url}/services/gpu/health"), "the broker starts", 60)
        agent = [
            sys.executable, "-m", "remote_gpu.agent.app", f"--broker=127.0.0.1:{fleet}",
            f"--token-file={tmp_path / 'carrel-node-token'}", "--port=0", "--node-name=own-hub",
            f"--CarrelAgent.state_dir={tmp_path / 'gpus'}", "--software-gpus=1",
            "--software-vram=512MiB",
        ]  # fmt: skip
        with running(agent, tmp_path, "agent.log"):
            ada = Person(url, "ada", "only for this test")
            eventually(lambda: "512 of 512 MiB" in ada.form(), "the GPU is offered", 60)
            page = ada.http.get("/services/gpu/")
            assert "My GPU slices" in page.text
            admin = Person(url, "admin", "only for this test")
            assert "GPU pool" in admin.http.get("/services/gpu/").text
            ada.start(gpu="small")
            page = ada.http.get("/services/gpu/")
            assert "256" in page.text
            assert ada.stop() == 204
            ada.close()
            admin.close()
        # Not even a hub that is killed leaves a broker behind, to hold the next one's port.
        children = process.children(recursive=True)
        brokers = [each for each in children if _is_broker(each)]
        assert brokers
        process.kill()
        process.wait(10)
        _, alive = psutil.wait_procs(brokers, 30)
        assert not alive
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _is_broker(process: psutil.Process) -> bool:
    try:
        return "gpu_broker.app" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    demo = Demo(tmp_path / "state", "--gpus=1", "--vram=1GiB", "--students=ada")
    ada = demo.person("ada")
    ada.start(gpu="quarter")
    family = psutil.Process(demo.process.pid).children(recursive=True)
    names = " ".join(" ".join(each.cmdline()) for each in family)
    for part in ("configurable-http-proxy", "jupyterhub", "gpu_broker", "agent", "singleuser"):
        assert part in names
    demo.process.send_signal(how)
    assert demo.process.wait(60) == (0 if how == signal.SIGINT else -how)
    _, alive = psutil.wait_procs(family, 30)
    assert not alive, [each.cmdline() for each in alive]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", demo.port)) != 0
    # No secret in what others on the machine can read: arguments and the files' modes.
    secrets = (tmp_path / "state" / "secrets.json").read_text()
    assert demo.password in secrets
    assert demo.spawner_token not in names
    assert (tmp_path / "state" / "secrets.json").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "homes" / "ada").stat().st_mode & 0o077 == 0


def test_a_demo_says_what_is_wrong(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hub_plugin.demo", f"--directory={tmp_path}", *options],
            capture_output=True, text=True, timeout=60, cwd=ROOT,
        )  # fmt: skip

    assert "--port" in run("--help").stdout
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = run(f"--port={taken.getsockname()[1]}")
    assert refused.returncode == 1
    assert "is taken" in refused.stderr
    assert "--port" in refused.stderr
    wrong = run(f"--port={free_ports(1)[0]}", "--vram=lots")
    assert wrong.returncode == 1
    assert "'lots' is no size" in wrong.stderr
