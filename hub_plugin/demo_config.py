"""The hub's configuration in the demo; read by JupyterHub, never imported.

``carrel-demo`` passes settings in ``$CARREL_DEMO`` (JSON) and secrets in variables of their own.
"""

import json
import os
import shutil
from pathlib import Path

from hub_plugin import configure

c = get_config()  # type: ignore[name-defined]  # noqa: F821
demo = json.loads(os.environ["CARREL_DEMO"])
state = Path(demo["directory"])

c.JupyterHub.bind_url = demo["url"]
c.JupyterHub.hub_bind_url = demo["hub_url"]
c.JupyterHub.db_url = f"sqlite:///{state / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(state / "cookie-secret")
c.JupyterHub.concurrent_spawn_limit = 20
c.JupyterHub.load_groups = {
    "students": {"users": demo["students"]},
    "instructors": {"users": ["cleo"]},
}
# The demo runs the proxy itself, so that servers stay reachable while the hub restarts.
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = demo["proxy_api_url"]
c.ConfigurableHTTPProxy.auth_token = os.environ.pop("CARREL_DEMO_PROXY_TOKEN")

c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ.pop("CARREL_DEMO_PASSWORD")
c.Authenticator.admin_users = {"admin"}
c.Authenticator.allowed_users = {*demo["students"], "cleo", "admin"}

c.SimpleLocalProcessSpawner.home_dir_template = str(state / "homes" / "{username}")
c.Spawner.default_url = "/lab"
c.Spawner.args = ["--ServerApp.ip=127.0.0.1"] + (["--allow-root"] if os.geteuid() == 0 else [])
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
c.Spawner.poll_interval = 5
# The demo does without nvJitLink on purpose: numba then hands over PTX, which is what a software
# GPU runs. No need to warn every student of it.
c.Spawner.environment = {
    "PYTHONWARNINGS": "ignore:cuda.bindings.nvjitlink is not available:RuntimeWarning"
}

NOTEBOOKS = Path(demo["notebooks"])
# JupyterLab asks about news and looks for updates unless told not to.
QUIET = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    }
}


def furnish(spawner):  # type: ignore[no-untyped-def]
    """Puts the notebooks into a home; what its owner has changed stays."""
    home = Path(spawner.home_dir)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not (home / notebook.name).exists():
            shutil.copyfile(notebook, home / notebook.name)
    for plugin, settings in QUIET.items():
        for config in (".jupyter", ".config/jupyter"):
            path = home / config / "lab" / "user-settings" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))


c.Spawner.pre_spawn_hook = furnish

configure(
    c,
    sizes=demo["sizes"],
    lease_ttl_s=demo["lease_ttl_s"],
    admin_groups=["instructors"],
    broker_url=demo["broker_url"],
    service_token=os.environ.pop("CARREL_DEMO_SERVICE_TOKEN"),
    spawner_token=os.environ.pop("CARREL_DEMO_SPAWNER_TOKEN"),
)
