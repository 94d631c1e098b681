"""``carrel-broker``: reads the configuration and runs the parts of the broker together.

Knows every part and decides nothing itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import grpc
from jupyterhub.services.auth import HubOAuth
from sqlalchemy.exc import ArgumentError
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from traitlets import Bool, Dict, Float, Int, List, TraitError, Unicode, default, validate
from traitlets.config import Application, Config, catch_config_error

from gpu_broker.fleet.server import FleetServer
from gpu_broker.quota import Limits
from gpu_broker.reconcile import Reconciler
from gpu_broker.rest.api import MAX_BODY_BYTES, Parts
from gpu_broker.rest.auth import ADMIN, USE, Authenticator, TokenGrant, read_token_file
from gpu_broker.store.database import Database
from gpu_broker.store.fleet import FleetStore
from gpu_broker.store.leases import Leases, Policy
from gpu_broker.threads import Threads
from gpu_broker.web import application

ADMIN_TOKEN = "CARREL_BROKER_ADMIN_TOKEN"  # noqa: S105 - the variable's name
NODE_TOKEN = "CARREL_NODE_TOKEN"  # noqa: S105 - the variable's name


def package_version() -> str:
    """The installed version of the distribution."""
    try:
        return version("carrel")
    except PackageNotFoundError:
        return "0+unknown"


class BrokerApp(Application):
    """The GPU broker: leases slices of GPUs to people of a JupyterHub."""

    name = "carrel-broker"
    version = package_version()
    description = __doc__ or ""
    examples = """
    carrel-broker --generate-config          # write carrel_broker_config.py, all options in it
    carrel-broker --config carrel_broker_config.py
    carrel-broker --upgrade-db               # bring the database up to date, and exit

    Run by JupyterHub as a managed service, it takes url, prefix and API token from the
    environment that the hub gives it.
    """

    config_file = Unicode(
        "carrel_broker_config.py", help="Configuration file to read; it need not exist."
    ).tag(config=True)
    generate_config = Bool(
        False, help="Write all options with their defaults to config_file, and exit."
    ).tag(config=True)
    upgrade_db = Bool(
        False,
        help="Bring the database up to date, and exit. A start does that by itself; use this to "
        "do it at a time of your choosing.",
    ).tag(config=True)

    ip = Unicode(
        help="Address on which to serve the REST API and the page. Default: of "
        "$JUPYTERHUB_SERVICE_URL, else loopback. Only the hub's proxy has to reach it."
    ).tag(config=True)
    port = Int(
        help="Port of the REST API and the page; 0 takes a free one. Default: of "
        "$JUPYTERHUB_SERVICE_URL, else 8095."
    ).tag(config=True)
    service_prefix = Unicode(
        help="Path under which all is served, e.g. /services/gpu/. Default: "
        "$JUPYTERHUB_SERVICE_PREFIX, else /services/gpu/."
    ).tag(config=True)
    template_paths = List(
        Unicode(),
        help="Folders searched for templates before the broker's own, to adapt the page to a site.",
    ).tag(config=True)

    database_url = Unicode(
        "sqlite:///carrel-broker.sqlite",
        help="SQLAlchemy URL of the database. SQLite in a file suits one hub; for PostgreSQL use "
        "postgresql+psycopg://user@host/carrel with the password in ~/.pgpass. It holds the keys "
        "of live leases: keep it readable by the broker only.",
    ).tag(config=True)
    keep_days = Float(
        30.0,
        help="Days for which ended leases and sessions are kept. The audit is kept for ever.",
    ).tag(config=True)

    fleet_ip = Unicode(
        "127.0.0.1",
        help="Address on which node agents connect (gRPC). Anything but loopback needs "
        "fleet_tls_certificate and fleet_tls_key, because lease keys pass here.",
    ).tag(config=True)
    fleet_port = Int(8096, help="Port for node agents; 0 takes a free one.").tag(config=True)
    fleet_tls_certificate = Unicode(
        help="PEM file of the certificate shown to node agents. Empty: no TLS."
    ).tag(config=True)
    fleet_tls_key = Unicode(help="PEM file of the certificate's private key.").tag(config=True)
    allow_insecure_fleet = Bool(
        False,
        help="Allow node agents without TLS on an address that is not loopback. Only where "
        "something else encrypts that network, such as WireGuard or a service mesh.",
    ).tag(config=True)
    node_token_file = Unicode(
        help="File with the secret that node agents show; give the agents the same. Default: the "
        f"environment variable ${NODE_TOKEN}; else the file carrel-node-token, made if missing."
    ).tag(config=True)
    heartbeat_s = Float(2.0, help="Seconds between reports of a node.").tag(config=True)
    node_grace_s = Float(
        60.0,
        help="Seconds for which a node may be away before it counts as lost. A lost node takes no "
        "new leases; those it has stay until they expire.",
    ).tag(config=True)

    lease_ttl_s = Float(
        180.0,
        help="Seconds after which a lease ends unless its holder asks to keep it. A running server "
        "asks several times within that; a dead one stops asking.",
    ).tag(config=True)
    max_lease_ttl_s = Float(
        7 * 86400.0, help="Longest TTL in seconds that a caller may ask for."
    ).tag(config=True)
    idle_after_s = Float(
        60.0, help="Seconds without a CUDA call after which a lease is shown as idle."
    ).tag(config=True)
    max_leases_per_user = Int(4, help="Leases that one person may hold at once; 0: no limit.").tag(
        config=True
    )
    max_vram_mib_per_user = Int(
        0, help="VRAM in MiB that one person may hold at once, over all leases; 0: no limit."
    ).tag(config=True)
    max_tflops_per_user = Float(
        0.0, help="Compute in TFLOPS that one person may hold at once; 0: no limit."
    ).tag(config=True)
    contact = Unicode(
        Limits().contact, help="Whom people are told to ask when they reach a limit."
    ).tag(config=True)
    reconcile_interval_s = Float(
        2.0,
        help="Seconds between turns of the loop that brings nodes in line with the database. "
        "Changes wake it at once; this bounds how late an expiry is noticed.",
    ).tag(config=True)

    admin_token_file = Unicode(
        help=f"File with a token that may do everything, for scripts. Default: ${ADMIN_TOKEN}, "
        "else there is none."
    ).tag(config=True)
    token_file = Unicode(
        help='JSON file of more tokens: {"<token>": {"user": "grader", "scopes": '
        f'["{USE}"]}}}}. Scopes: {USE} (own leases), {ADMIN} (all). Hub tokens work besides.'
    ).tag(config=True)
    hub_auth_cache_s = Int(
        60,
        help="Seconds for which the hub's answer about a token is remembered; a revoked token "
        "works that much longer.",
    ).tag(config=True)
    ready_file = Unicode(
        help="File to write once everything listens: one line of JSON with url, fleet and pid. "
        "For scripts that use port 0."
    ).tag(config=True)

    aliases = Dict(
        {
            "config": "BrokerApp.config_file",
            "log-level": "BrokerApp.log_level",
            "ip": "BrokerApp.ip",
            "port": "BrokerApp.port",
            "prefix": "BrokerApp.service_prefix",
            "database": "BrokerApp.database_url",
            "fleet-ip": "BrokerApp.fleet_ip",
            "fleet-port": "BrokerApp.fleet_port",
            "node-token-file": "BrokerApp.node_token_file",
            "token-file": "BrokerApp.token_file",
            "ready-file": "BrokerApp.ready_file",
        }
    )
    flags = Dict(
        {
            "generate-config": (
                {"BrokerApp": {"generate_config": True}},
                "Write a configuration file with all options, and exit.",
            ),
            "upgrade-db": (
                {"BrokerApp": {"upgrade_db": True}},
                "Bring the database up to date, and exit.",
            ),
            "debug": ({"BrokerApp": {"log_level": 10}}, "Log everything."),
        }
    )
    classes = List([HubOAuth])

    @default("log_level")
    def _log_level(self) -> int:
        return 20

    @default("log_format")
    def _log_format(self) -> str:
        return "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

    @default("ip")
    def _ip(self) -> str:
        return urlparse(os.environ.get("JUPYTERHUB_SERVICE_URL", "")).hostname or "127.0.0.1"

    @default("port")
    def _port(self) -> int:
        return urlparse(os.environ.get("JUPYTERHUB_SERVICE_URL", "")).port or 8095

    @default("service_prefix")
    def _prefix(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or "/services/gpu/"

    @validate("service_prefix")
    def _with_slashes(self, proposal: Any) -> str:
        path = str(proposal.value).strip("/")
        return f"/{path}/" if path else "/"

    @validate(
        "heartbeat_s", "node_grace_s", "lease_ttl_s", "max_lease_ttl_s", "idle_after_s",
        "reconcile_interval_s", "keep_days",
    )  # fmt: skip
    def _positive(self, proposal: Any) -> float:
        if not 0 < proposal.value < float("inf"):
            raise TraitError(f"{proposal.trait.name} must be more than 0, not {proposal.value}")
        return float(proposal.value)

    @validate("max_leases_per_user", "max_vram_mib_per_user", "max_tflops_per_user")
    def _not_negative(self, proposal: Any) -> Any:
        if not 0 <= proposal.value < float("inf"):
            raise TraitError(f"{proposal.trait.name} must be 0 (no limit) or more")
        return proposal.value

    # ---- starting ----------------------------------------------------------------------------

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Reads the command line, then the file, then the command line again: it wins."""
        self.parse_command_line(argv)
        command_line = Config(self.cli_config)
        if not self.generate_config and Path(self.config_file).is_file():
            self.load_config_file(self.config_file, path=[])
            self.update_config(command_line)

    def load_config_file(self, filename: str, path: Any = None) -> None:
        """Reads one file, given by its path."""
        full = Path(filename).resolve()
        super().load_config_file(full.name, path=[str(full.parent)])

    def start(self) -> None:
        """Runs until SIGTERM or SIGINT."""
        if self.generate_config:
            self._write_config()
        elif self.upgrade_db:
            self.open_database().upgrade()
            self.log.info("The database is up to date")
        else:
            asyncio.run(self.serve())

    def _write_config(self) -> None:
        path = Path(self.config_file)
        if path.exists():
            self.exit_with(f"{path} exists; name another with --config, or remove it.")
        path.write_text(self.generate_config_file())
        print(f"Wrote {path}")

    def exit_with(self, message: str) -> NoReturn:
        """Ends with one line for the administrator."""
        print(f"carrel-broker: {message}", file=sys.stderr)
        sys.exit(1)

    async def serve(self) -> None:
        """Opens the database, starts the parts, waits for a signal, and stops them in order."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        database = self.open_database()
        threads = Threads()
        await threads.run(database.upgrade)
        store = FleetStore(database, self.node_grace_s, self.idle_after_s)
        reconciler: Reconciler | None = None

        def wake() -> None:
            if reconciler is not None:
                reconciler.wake()

        fleet = FleetServer(
            store, threads, self.node_token(), self.heartbeat_s, self.version, wake, self.log
        )
        leases = Leases(database, self.policy(), fleet.online)
        auth = Authenticator(self.hub_oauth(), self.own_tokens(), self.log)
        parts = Parts(
            database=database,
            leases=leases,
            store=store,
            fleet=fleet,
            threads=threads,
            auth=auth,
            wake=wake,
            version=self.version,
            prefix=self.service_prefix,
            log=self.log,
        )
        reconciler = Reconciler(
            store, fleet, threads, self.reconcile_interval_s, self.keep_days * 86400, self.log
        )
        try:
            sockets = bind_sockets(self.port, self.ip)
        except OSError as error:
            self.exit_with(f"cannot listen on ip {self.ip}, port {self.port}: {error.strerror}")
        credentials = self.fleet_credentials()
        try:
            fleet_port = await fleet.start(self.fleet_ip, self.fleet_port, credentials)
        except RuntimeError:
            self.exit_with(
                f"cannot listen on fleet_ip {self.fleet_ip}, fleet_port {self.fleet_port}: "
                "another program may use it"
            )
        server = HTTPServer(
            application(parts, self.cookie_secret(), self.template_paths),
            xheaders=True,
            max_buffer_size=4 * MAX_BODY_BYTES,
            max_body_size=MAX_BODY_BYTES,
        )
        server.add_sockets(sockets)
        turning = asyncio.create_task(reconciler.run())
        self.announce(sockets[0].getsockname()[1], fleet_port)
        try:
            await stop.wait()
        finally:
            self.log.info("Stopping; leases stay, and agents keep what they hold")
            server.stop()
            turning.cancel()
            await asyncio.gather(turning, return_exceptions=True)
            await fleet.stop()
            await server.close_all_connections()
            await asyncio.to_thread(threads.close)
            database.close()

    def announce(self, port: int, fleet_port: int) -> None:
        """Says where everything listens, in the log and in ``ready_file``."""
        url = f"http://{self.ip}:{port}{self.service_prefix}"
        fleet = f"{self.fleet_ip}:{fleet_port}"
        self.log.info("GPU broker at %s, node agents at %s", url, fleet)
        if self.ready_file:
            path = Path(self.ready_file)
            unfinished = path.with_name(f"{path.name}.{os.getpid()}")
            unfinished.write_text(
                json.dumps({"url": url, "fleet": fleet, "pid": os.getpid()}) + "\n"
            )
            unfinished.replace(path)

    # ---- configuration as the parts want it --------------------------------------------------

    def open_database(self) -> Database:
        """The database, not yet brought up to date."""
        try:
            return Database(self.database_url)
        except (ValueError, OSError, ImportError, ArgumentError) as error:
            self.exit_with(f"database_url: {error}")

    def policy(self) -> Policy:
        """The site's rules for leases."""
        limits = Limits(
            max_leases=self.max_leases_per_user or None,
            max_vram_mib=self.max_vram_mib_per_user or None,
            max_tflops=self.max_tflops_per_user or None,
            contact=self.contact,
        )
        return Policy(limits, self.lease_ttl_s, self.max_lease_ttl_s, self.node_grace_s)

    def hub_oauth(self) -> HubOAuth | None:
        """The hub that this broker is a service of, if there is one."""
        if not os.environ.get("JUPYTERHUB_API_TOKEN"):
            self.log.warning("No $JUPYTERHUB_API_TOKEN: only the broker's own tokens will work")
            return None
        return HubOAuth(parent=self, cache_max_age=self.hub_auth_cache_s)

    def own_tokens(self) -> dict[str, TokenGrant]:
        """The broker's own tokens; each must be long enough not to be guessed."""
        tokens = {}
        if self.token_file:
            try:
                tokens = read_token_file(Path(self.token_file))
            except (OSError, ValueError) as error:
                self.exit_with(f"token_file: {error}")
        admin = _secret(self.admin_token_file, ADMIN_TOKEN)
        if admin:
            tokens[admin] = TokenGrant(user="admin-token", scopes=[ADMIN])
        if any(len(token) < 16 for token in tokens):
            self.exit_with("a token of the broker is shorter than 16 characters; take a longer one")
        return tokens

    def node_token(self) -> str:
        """The secret that agents show; made and kept in a private file if none is given."""
        try:
            token = _secret(self.node_token_file, NODE_TOKEN)
        except OSError as error:
            self.exit_with(f"node_token_file: {error}")
        if token:
            return token
        path = Path("carrel-node-token")
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_hex(32) + "\n")
            self.log.info("Made a node token: %s", path.resolve())
        return path.read_text().strip()

    def fleet_credentials(self) -> grpc.ServerCredentials | None:
        """TLS for the agents; refuses to send keys in the clear over a network."""
        if self.fleet_tls_certificate and self.fleet_tls_key:
            pair = (
                Path(self.fleet_tls_key).read_bytes(),
                Path(self.fleet_tls_certificate).read_bytes(),
            )
            return grpc.ssl_server_credentials([pair])
        loopback = self.fleet_ip in ("localhost", "::1") or self.fleet_ip.startswith("127.")
        if not loopback and not self.allow_insecure_fleet:
            self.exit_with(
                f"fleet_ip {self.fleet_ip} is not loopback: set fleet_tls_certificate and "
                "fleet_tls_key, or allow_insecure_fleet where the network itself is encrypted."
            )
        return None

    def cookie_secret(self) -> bytes:
        """Stays the same over restarts under one hub, so that people stay logged in."""
        token = os.environ.get("JUPYTERHUB_API_TOKEN")
        if not token:
            return secrets.token_bytes(32)
        return hashlib.sha256(b"carrel-broker cookie\0" + token.encode()).digest()


def _secret(path: str, variable: str) -> str:
    """A secret from a file, or else from the environment; never from the command line."""
    if path:
        return Path(path).read_text().strip()
    return os.environ.get(variable, "").strip()


def main() -> None:
    """The console script."""
    BrokerApp.launch_instance()


if __name__ == "__main__":
    main()
