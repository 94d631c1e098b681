"""A student at a real hub: log in, choose a slice, run CUDA code on it, give it back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hub_plugin
from tests.support.demo import Demo, eventually
from tests.support.hub import CellError, Person, denial

NOTEBOOKS = sorted((Path(hub_plugin.__file__).parent / "notebooks").glob("*.ipynb"))
Login = Callable[[str], Person]

SQUARES = """
import numpy as np
from numba import cuda

@cuda.jit
def squares(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = x[i] * x[i] + np.float32({seed})

x = np.random.default_rng({seed}).random(200_000, dtype=np.float32)
out = cuda.device_array_like(x)
squares[782, 256](cuda.to_device(x), out)
np.testing.assert_allclose(out.copy_to_host(), x * x + np.float32({seed}), rtol=1e-6)
print("as numpy")
print(cuda.current_context().get_memory_info()[1] >> 20, "MiB")
"""


def test_a_slice_from_the_form_to_its_release(demo: Demo, login: Login) -> None:
    ada = login("ada")
    page = ada.form()
    for text in ("No GPU", "Quarter", "2,048 MiB", "5 TFLOPS", "8,192 of 8,192 MiB"):
        assert text in page
    answer = ada.submit(gpu="quarter")
    assert "/spawn-pending/" in str(answer.url)
    messages = ada.progress()
    ada.wait_ready()
    assert "Asking for a slice of a GPU: 2,048 MiB and 5 TFLOPS" in messages
    assert any("Granted" in message for message in messages)
    (lease,) = demo.leases("ada")
    assert (lease.vram_mib, lease.tflops, lease.state) == (2048, 5.0, "active")

    kernel = ada.kernel("homework.ipynb")
    assert kernel.run(SQUARES.format(seed=1)).split("\n")[:2] == ["as numpy", "2048 MiB"]
    assert "2048 MiB" in kernel.run("!nvidia-smi")
    (session,) = eventually(demo.broker.sessions, "the session is reported")
    assert (session.user, session.name) == ("ada", "homework.ipynb")

    eventually(
        lambda: demo.broker.lease(lease.id).expires_at > lease.expires_at,
        "the hub's heartbeats keep the lease",
        demo.ttl_s,
    )

    kernel.shut_down()
    eventually(lambda: not demo.broker.sessions(), "the session ends with its kernel")
    assert ada.stop() == 204
    ended = demo.broker.lease(lease.id)
    assert (ended.state, ended.reason) == ("ended", "released")
    assert ada.stop() == 204  # a second stop finds nothing to do, and says so
    assert demo.broker.lease(lease.id).ended_at == ended.ended_at


def test_four_students_at_once_and_a_fifth(demo: Demo, login: Login) -> None:
    four = [login(name) for name in ("ada", "ben", "dan", "eva")]
    finn = login("finn")
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda person: person.start(gpu="quarter"), four))
        (gpu,) = demo.broker.capacity().gpus
        assert gpu.vram_free_mib == 0

        refused = finn.submit(gpu="quarter")
        assert refused.status_code == 409
        told = denial(refused.text)
        assert told
        assert "free" in told
        assert "Start without a GPU" in told
        assert "not free now" in finn.form()
        assert finn.server() is None
        assert not demo.leases("finn")
        # The button of the denial, and then a server that has no GPU and says so.
        starting = pool.submit(finn.start, start_without_gpu="1", gpu="quarter")

        kernels = list(pool.map(lambda person: person.kernel(f"{person.name}.ipynb"), four))
        codes = [SQUARES.format(seed=seed) for seed in range(4)]
        outputs = list(pool.map(lambda kernel, code: kernel.run(code), kernels, codes))
        assert all(output.startswith("as numpy\n2048 MiB") for output in outputs), outputs
        assert len(demo.workers()) == 4
        starting.result()
        no_gpu = finn.kernel()
        assert "42" in no_gpu.run("import os; assert 'CARREL_LEASE' not in os.environ; 6 * 7")
        # Somebody gives theirs back: there is room again.
        four[0].stop()
        eventually(lambda: demo.broker.capacity().gpus[0].vram_free_mib == 2048, "room again")
        assert "free now" in four[0].form()


def test_the_notebooks(demo: Demo, login: Login) -> None:
    ada = login("ada")
    ada.start(gpu="custom", vram_mib="1500", tflops="2.5")
    assert [(lease.vram_mib, lease.tflops) for lease in demo.leases("ada")] == [(1500, 2.5)]
    assert len(NOTEBOOKS) == 4
    home = demo.directory / "homes" / "ada"
    pictures = []
    for original in NOTEBOOKS:
        assert (home / original.name).read_bytes() == original.read_bytes()
        kernel = ada.kernel(original.name)
        started = time.monotonic()
        for cell in json.loads(original.read_text())["cells"]:
            if cell["cell_type"] != "code":
                continue
            assert cell["outputs"] == [], f"{original.name} is committed with outputs"
            for kind, content in kernel.outputs("".join(cell["source"])):
                noise = content.get("text", "") if content.get("name") == "stderr" else ""
                assert not noise, f"{original.name}: {noise}"
                if kind == "display_data" and "image/png" in content["data"]:
                    pictures.append(original.name)
        assert time.monotonic() - started < 30, original.name
        kernel.shut_down()
    assert sorted(set(pictures)) == [notebook.name for notebook in NOTEBOOKS[1:]]


def test_a_killed_worker_and_a_restarted_kernel(demo: Demo, login: Login) -> None:
    ben = login("ben")
    ben.start(gpu="quarter")
    (lease,) = demo.leases("ben")
    kernel = ben.kernel("unlucky.ipynb")
    kernel.run(SQUARES.format(seed=3))
    (worker,) = demo.workers()
    worker.kill()
    eventually(lambda: not demo.workers(), "the worker is gone")
    started = time.monotonic()
    with pytest.raises(CellError, match=r"CudaAPIError|CUDA_ERROR"):
        kernel.run("cuda.synchronize()", timeout_s=20)
    assert time.monotonic() - started < 15
    assert [each.id for each in demo.leases("ben")] == [lease.id]
    kernel.restart()
    assert kernel.run(SQUARES.format(seed=4)).startswith("as numpy")
    (session,) = eventually(demo.broker.sessions, "the new session is reported")
    assert session.lease == lease.id
    # A forked child that lives on must not keep the session of a kernel that is gone.
    kernel.run("import os, time\nif os.fork() == 0:\n    time.sleep(600)\n    os._exit(0)")
    kernel.shut_down()
    eventually(lambda: not demo.workers(), "the worker ends with the kernel")
