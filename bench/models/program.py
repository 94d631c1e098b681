"""Runs the models' steps on whatever GPU it is given; told what to do on standard input.

Runs in PyTorch's own Python, natively and in a slice alike, and knows of Carrel only the relay that
it may put between itself and the node. Reads one JSON object a line and answers with one:

    {"do": "load", "model": "bert", "task": "train", "mode": "eager", …}
    {"do": "steps", "count": 20}      → {"seconds": [...]}: each step, its result read
    {"do": "added", "told_ms": 0.3}   the relay's setting from now on
    {"do": "counts"}                  → {"counts": {name: [calls, round trips]}}, of a slice
    {"do": "device"}                  → names and versions
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from bench.network import Relay

WARM_UP = 3


class Program:
    def __init__(self, relay: Relay | None) -> None:
        self.relay = relay
        self.step: Callable[[], object] | None = None

    def device(self) -> dict[str, Any]:
        import torch

        found = torch.cuda.get_device_properties(0)
        return {
            "name": found.name,
            "compute_capability": f"{found.major}.{found.minor}",
            "memory_mib": found.total_memory >> 20,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        }

    def load(
        self, model: str, task: str, mode: str, tiny: bool, compiled_only: bool
    ) -> dict[str, Any]:
        import torch

        from bench.models.steps import make_step

        self.step = None
        gc.collect()
        if "torch._dynamo" in sys.modules:  # takes seconds to import
            torch._dynamo.reset()
        torch.cuda.empty_cache()
        self.step = make_step(model, task, mode, tiny, compiled_only)
        start = time.perf_counter()
        for _ in range(WARM_UP):
            self.step()
        return {"warm_up_s": time.perf_counter() - start}

    def steps(self, count: int) -> dict[str, Any]:
        assert self.step, "nothing is loaded"
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def added(self, told_ms: float) -> dict[str, Any]:
        assert self.relay, "there is no relay"
        self.relay.set_rtt(told_ms)
        return {}

    def counts(self) -> dict[str, Any]:
        """What CARREL_TRACE=summary counted so far: calls and round trips by name."""
        write = getattr(ctypes.CDLL("libcuda.so.1"), "carrel_trace_write", None)
        if write is None:
            return {"counts": {}}
        with tempfile.TemporaryFile("w+") as file:
            write(file.fileno())
            file.seek(0)
            lines = [line.split() for line in file if line.startswith("carrel: ")]
        # carrel: CALLS ROUND-TRIPS … NAME; a heading and the sum are left out
        rows = [line for line in lines if line[1].isdigit() and line[-2:] != ["in", "all"]]
        return {"counts": {line[-1]: [int(line[1]), int(line[2])] for line in rows}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relayed", action="store_true", help="put a relay before the node")
    arguments = parser.parse_args()
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.ExitStack() as stack:
        relay = None
        if arguments.relayed:
            relay = stack.enter_context(Relay(os.environ["CARREL_ENDPOINT"]))
            os.environ["CARREL_ENDPOINT"] = relay.endpoint  # read when CUDA is first used
        program = Program(relay)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(program, request.pop("do"))(**request)
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
