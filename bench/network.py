"""A network between program and node on one machine: ``native/relay.cpp``, started and steered.

``python -m bench.network`` measures what the relay gives, beside the direct connection: round trip
and bandwidth, for several settings. ``python -m bench.network [options] -- COMMAND``, inside a
slice, runs the command with the relay between it and the node:

    carrel-run -- python -m bench.network --rtt-ms 0.3 --gbit-s 10 -- python prog.py

Knows the standard library only: programs import it in environments of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import programs

#: Round trips to add, in ms, that figures are taken at.
ADDED_MS = (0.3, 1.0)
#: How long before bytes are due a relay watches the clock, where there are cores to spare: they
#: then leave within some 5 µs instead of 50.
SPIN_US = 50.0 if len(os.sched_getaffinity(0)) >= 4 else 0.0
_TRIES = 5


class Relay:
    """Relays TCP connections to ``target`` (``host:port``) until it is closed.

    Args:
        target: where connections go.
        rtt_ms: round trip to add; half in each direction.
        gbit_s: bandwidth of each direction, shared by all connections; 0 is no limit.
        cuts: when to break all connections, ``BYTES:SECONDS[:how][,…]``; see ``relay --help``.
        spin_us: how long before bytes are due the relay watches the clock instead of sleeping.
    """

    def __init__(
        self,
        target: str,
        *,
        rtt_ms: float = 0.0,
        gbit_s: float = 0.0,
        cuts: str = "",
        spin_us: float = SPIN_US,
    ) -> None:
        command = [
            str(programs.build("relay")), "--to", target, "--rtt-ms", str(rtt_ms),
            "--gbit-s", str(gbit_s), "--spin-us", str(spin_us), "--cut", cuts,
        ]  # fmt: skip
        # In a slice LD_AUDIT would give the relay a GPU, too.
        env = {name: value for name, value in os.environ.items() if name != "LD_AUDIT"}
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            self.port: int = self._answer()["port"]
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set_rtt(self, ms: float) -> None:
        """The round trip to add from now on, in ms; what is under way is not overtaken."""
        self._command(f"rtt {ms}")

    def set_bandwidth(self, gbit_s: float) -> None:
        """The bandwidth of each direction from now on; 0 is no limit."""
        self._command(f"bandwidth {gbit_s}")

    def cut(self, seconds: float, how: str = "fin") -> None:
        """Breaks all connections, and lets nobody in for so many seconds."""
        self._command(f"cut {seconds} {how}")

    def cut_on_signal(self) -> None:
        """Makes the cut that waits for a signal, if there is one."""
        self._process.send_signal(signal.SIGUSR1)

    def stats(self) -> dict[str, float]:
        """Connections let in, cuts made, bytes each way, and how late bytes left, in µs."""
        return self._command("stats")

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _command(self, line: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the relay ended with status {self._process.wait(timeout=30)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(f"the relay says: {answer['error']}")
        return answer


# --- what it gives -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """What the relay gave at one setting, beside the direct connection in the same run.

    ``set_ms`` is what the relay was told so that ``aim_ms`` is what it adds: its own work costs
    time, too. ``added_ms`` is what it then added. Bandwidths are in GiB/s.
    """

    aim_ms: float
    gbit_s: float
    set_ms: float
    added_ms: float
    direct_us: float
    relayed_us: float
    direct_gib_s: float
    relayed_gib_s: float
    late_us_p50: float
    late_us_p99: float


@contextlib.contextmanager
def _peer() -> Iterator[int]:
    """The port of a TCP peer that echoes, swallows and sends."""
    process = subprocess.Popen(
        [str(programs.build("tcp_probe")), "serve"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def _measure(*ports: int) -> list[dict[str, float]]:
    done = subprocess.run(
        [str(programs.build("tcp_probe")), "measure", *map(str, ports)],
        stdout=subprocess.PIPE, text=True, check=True, timeout=300,
    )  # fmt: skip
    measured: list[dict[str, float]] = json.loads(done.stdout)
    return measured


def calibrate(
    aims_ms: Sequence[float] = (0.0, *ADDED_MS), gbit_s: float = 0.0, spin_us: float = SPIN_US
) -> list[Calibration]:
    """Measures the relay at each round trip to add, having taken off what its own work costs."""
    result = []
    with _peer() as port, Relay(f"127.0.0.1:{port}", gbit_s=gbit_s, spin_us=spin_us) as relay:
        for aim in aims_ms:
            set_ms = aim
            for corrected in (False, True):
                relay.set_rtt(set_ms)
                relay.stats()
                # Where the system puts the processes decides for a while what a wakeup takes.
                tries = [_measure(port, relay.port) for _ in range(_TRIES)]
                stats = relay.stats()
                tries.sort(key=lambda both: both[1]["rtt_us"] - both[0]["rtt_us"])
                direct, through = tries[_TRIES // 2]
                added = (through["rtt_us"] - direct["rtt_us"]) / 1000
                if not corrected:
                    set_ms = max(0.0, aim - (added - aim))
            result.append(
                Calibration(
                    aim,
                    gbit_s,
                    round(set_ms, 4),
                    round(added, 4),
                    direct["rtt_us"],
                    through["rtt_us"],
                    direct["send_gib_s"],
                    through["send_gib_s"],
                    stats["late_us_p50"],
                    stats["late_us_p99"],
                )
            )
    return result


def print_table(rows: Sequence[Calibration]) -> None:
    print("relay: aim ms   told ms   adds ms   round trip µs   direct µs   GiB/s   direct   "
          "late µs p50  p99")  # fmt: skip
    for row in rows:
        limit = f"  (limit {row.gbit_s:g} Gbit/s)" if row.gbit_s else ""
        print(
            f"{row.aim_ms:13.2f} {row.set_ms:9.3f} {row.added_ms:9.3f} {row.relayed_us:15.1f} "
            f"{row.direct_us:11.1f} {row.relayed_gib_s:7.2f} {row.direct_gib_s:8.2f} "
            f"{row.late_us_p50:13.1f} {row.late_us_p99:4.0f}{limit}"
        )


# --- the command line ----------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.network", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rtt-ms", type=float, default=0.0, help="round trip to add, ms")
    parser.add_argument("--gbit-s", type=float, default=0.0, help="bandwidth limit (0: none)")
    parser.add_argument("--spin-us", type=float, default=SPIN_US, help="see relay --help")
    parser.add_argument("--cut", default="", metavar="LIST", help="see relay --help")
    parser.add_argument("--to", help="the node's door (default: the slice's, CARREL_ENDPOINT)")
    parser.add_argument("--json", type=Path, help="write the calibration there, too")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --")
    arguments = parser.parse_args()
    if arguments.command:
        sys.exit(_run(arguments))
    rows = calibrate((0.0, *({arguments.rtt_ms} - {0.0} or ADDED_MS)), 0.0, arguments.spin_us)
    rows += calibrate((0.0,), arguments.gbit_s or 10.0, arguments.spin_us)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _run(arguments: argparse.Namespace) -> int:
    """Runs the command behind a relay; prints what the relay did, last of all."""
    target = arguments.to or os.environ.get("CARREL_ENDPOINT")
    if not target:
        sys.exit("bench.network: run it in a slice (carrel-run), or name the node's door with --to")
    with Relay(
        target, rtt_ms=arguments.rtt_ms, gbit_s=arguments.gbit_s,
        cuts=arguments.cut, spin_us=arguments.spin_us,
    ) as relay:  # fmt: skip
        signal.signal(signal.SIGUSR1, lambda *_: relay.cut_on_signal())
        env = {**os.environ, "CARREL_ENDPOINT": relay.endpoint}
        status = subprocess.run(arguments.command, env=env).returncode
        stats = relay.stats()
    print(f"relay: {stats['cuts']:.0f} cuts, {stats['connections']:.0f} connections", flush=True)
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    main()
