"""One call wires a hub; what a site has configured stays."""

from __future__ import annotations

from typing import Any

import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import Config

from hub_plugin import configure
from hub_plugin.provisioner import MAX_NAME_BYTES, session_name
from hub_plugin.spawner import CarrelLocalSpawner

SIZES = [{"name": "small", "vram_mib": 2048, "tflops": 5}]


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARREL_SERVICE_TOKEN", raising=False)
    monkeypatch.delenv("CARREL_BROKER_TOKEN", raising=False)


def service(c: Config, name: str) -> dict[str, Any]:
    (found,) = [service for service in c.JupyterHub.services if service["name"] == name]
    return dict(found)


def role(c: Config, name: str) -> dict[str, Any]:
    (found,) = [role for role in c.JupyterHub.load_roles if role["name"] == name]
    return dict(found)


def test_a_managed_broker() -> None:
    c = Config()
    c.Authenticator.admin_users = {"root"}
    configure(c, sizes=SIZES, admins=["cleo"], admin_groups=["staff"])
    broker = service(c, "gpu")
    assert broker["url"] == "http://127.0.0.1:8095"
    assert "gpu_broker.app" in broker["command"]
    assert broker["api_token"] not in " ".join(broker["command"])
    assert set(role(c, "user")["scopes"]) == {
        "self",
        "custom:gpu:use",
        "access:services!service=gpu",
    }
    assert role(c, "gpu-admin")["users"] == ["cleo", "root"]
    assert role(c, "gpu-admin")["groups"] == ["staff"]
    assert role(c, "gpu-spawner")["scopes"] == ["custom:gpu:admin"]
    assert c.GPULeaseMixin.broker_token == service(c, "gpu-spawner")["api_token"]
    assert c.GPULeaseMixin.broker_url == "http://127.0.0.1:8095/services/gpu"
    # Options of the mixin reach a spawner, and the hub takes the whole.
    spawner = CarrelLocalSpawner(config=c)
    assert spawner.gpu_sizes == SIZES
    assert spawner.broker_url == c.GPULeaseMixin.broker_url
    hub = JupyterHub(config=c)
    assert hub.spawner_class is CarrelLocalSpawner
    assert set(hub.custom_scopes) == {"custom:gpu:use", "custom:gpu:admin"}


def test_what_a_site_has_stays() -> None:
    c = Config()
    c.JupyterHub.services = [{"name": "culler", "command": ["true"]}]
    c.JupyterHub.load_roles = [
        {"name": "user", "scopes": ["self", "shares!user"]},
        {"name": "culling", "scopes": ["list:users"], "services": ["culler"]},
    ]
    c.JupyterHub.custom_scopes = {"custom:grades:read": {"description": "Read grades"}}
    c.JupyterHub.template_paths.append("/srv/templates")
    configure(c, sizes=SIZES)
    assert service(c, "culler")["command"] == ["true"]
    assert {"self", "shares!user", "custom:gpu:use"} < set(role(c, "user")["scopes"])
    assert role(c, "culling")
    assert "custom:grades:read" in c.JupyterHub.custom_scopes
    assert c.JupyterHub.template_paths[0] == "/srv/templates"
    assert c.JupyterHub.template_paths[1].endswith("hub_plugin/templates")


def test_a_broker_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="CARREL_SERVICE_TOKEN"):
        configure(Config(), broker_url="http://gpu:8095")
    monkeypatch.setenv("CARREL_SERVICE_TOKEN", "s" * 32)
    monkeypatch.setenv("CARREL_BROKER_TOKEN", "b" * 32)
    c = Config()
    configure(c, broker_url="http://gpu:8095/")
    assert "command" not in service(c, "gpu")
    assert service(c, "gpu")["api_token"] == "s" * 32
    assert c.GPULeaseMixin.broker_url == "http://gpu:8095/services/gpu"
    assert c.GPULeaseMixin.broker_token == "b" * 32
    with pytest.raises(ValueError, match="broker_url"):
        configure(Config(), broker_url="gpu:8095", service_token="s" * 32)


def test_wrong_sizes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="vram_mib"):
        configure(Config(), sizes=[{"name": "small", "vram_mib": "2 GiB", "tflops": 5}])


def test_names_of_sessions() -> None:
    from pathlib import Path

    home = Path("/home/ada")
    assert session_name("/home/ada/week 1/sum.ipynb", home) == "week 1/sum.ipynb"
    assert session_name("week1/sum.ipynb", home) == "week1/sum.ipynb"
    assert session_name("/srv/sum.ipynb", home) == "/srv/sum.ipynb"
    assert session_name("a\nb\x00.ipynb", home) == "a?b?.ipynb"
    assert session_name("", home) == ""
    long = session_name("ä" * 300 + ".ipynb", home)
    assert len(long.encode()) <= MAX_NAME_BYTES
    assert long.startswith("…ä")
    assert long.endswith(".ipynb")
