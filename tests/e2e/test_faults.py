"""What students keep when parts of the system die, and what bad input gets."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.demo import Demo, eventually
from tests.support.hub import CellError, Person, denial

Login = Callable[[str], Person]

KEEP = """
import numpy as np
from numba import cuda

@cuda.jit
def increment(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += 1

x = cuda.to_device(np.zeros(100_000, np.int32))
increment[391, 256](x)
cuda.synchronize()
"""
AGAIN = "increment[391, 256](x); print(np.unique(x.copy_to_host()))"


def test_broker_and_hub_killed_while_a_kernel_runs(demo: Demo, login: Login) -> None:
    ada = login("ada")
    ada.start(gpu="quarter")
    (lease,) = demo.leases("ada")
    kernel = ada.kernel("steady.ipynb")
    kernel.run(KEEP)

    demo.kill("broker")
    assert kernel.run(AGAIN) == "[2]\n"  # with no broker, or with the new one
    eventually(lambda: _same_lease(demo, lease.id), "the broker knows the lease again", 30)
    eventually(lambda: demo.broker.capacity().gpus, "the node has come back", 30)
    assert kernel.run(AGAIN) == "[3]\n"

    demo.kill("hub")
    assert kernel.run(AGAIN) == "[4]\n"
    eventually(lambda: _hub_answers(demo), "the hub is back", 60)
    kept_until = demo.broker.lease(lease.id).expires_at
    eventually(
        lambda: demo.broker.lease(lease.id).expires_at > kept_until,
        "the new hub keeps the lease of the server that it found running",
        demo.ttl_s,
    )
    assert _same_lease(demo, lease.id)
    assert kernel.run(AGAIN) == "[5]\n"
    assert ada.server()
    assert ada.stop() == 204
    assert demo.broker.lease(lease.id).reason == "released"


def _same_lease(demo: Demo, id: str) -> bool:
    try:
        return [lease.id for lease in demo.leases("ada")] == [id]
    except Exception:
        return False


def _hub_answers(demo: Demo) -> bool:
    try:
        return httpx.get(f"{demo.url}/hub/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_agent_killed(demo: Demo, login: Login) -> None:
    ada = login("ada")
    ada.start(gpu="quarter")
    kernel = ada.kernel("shaken.ipynb")
    kernel.run(KEEP)
    demo.kill("node")
    # Its workers go with it: an error at the next call, and no hang.
    with pytest.raises(CellError, match=r"CudaAPIError|CUDA_ERROR"):
        kernel.run(AGAIN, timeout_s=30)
    eventually(lambda: demo.broker.capacity().gpus and not demo.broker.sessions(), "agreed", 10)
    kernel.restart()
    kernel.run(KEEP)
    assert kernel.run(AGAIN) == "[2]\n"


@contextmanager
def frozen_node(demo: Demo) -> Iterator[None]:
    """The node hangs, so that a start waits in the middle: lease granted, not yet let in."""
    pid = demo.pid("node")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_stop_and_hub_death_during_a_start(demo: Demo, login: Login) -> None:
    ben = login("ben")
    with frozen_node(demo):
        assert ben.submit(gpu="quarter").status_code == 200
        eventually(lambda: demo.leases("ben"), "a lease for the start")
        assert ben.api("DELETE", "users/ben/server").status_code in (202, 204)
        ben.wait_stopped()
        eventually(lambda: not demo.leases("ben"), "the lease is given back at once", 3)

        assert ben.submit(gpu="quarter").status_code == 200
        (lease,) = eventually(lambda: demo.leases("ben"), "a lease for the start")
        assert lease.observed == "pending"
        demo.kill("hub")
    eventually(lambda: _hub_answers(demo), "the hub is back", 60)
    eventually(lambda: not demo.leases("ben"), "the TTL ends what nobody keeps", demo.ttl_s + 10)
    ended = demo.broker.lease(lease.id)
    assert (ended.state, ended.reason) in {("ended", "expired"), ("ended", "released")}
    ben.start(gpu="none")


FORM_NONSENSE = [
    ("gpu", {"gpu": "huge"}),
    ("vram_mib", {"gpu": "custom", "vram_mib": "-1", "tflops": "1"}),
    ("vram_mib", {"gpu": "custom", "vram_mib": "1.5", "tflops": "1"}),
    ("vram_mib", {"gpu": "custom", "vram_mib": "", "tflops": "1"}),
    ("vram_mib", {"gpu": "custom", "vram_mib": "1000000000", "tflops": "1"}),
    ("tflops", {"gpu": "custom", "vram_mib": "100", "tflops": "nan"}),
    ("tflops", {"gpu": "custom", "vram_mib": "100", "tflops": "0"}),
    ("tflops", {"gpu": "custom", "vram_mib": "100", "tflops": "1e400"}),
    ("tflops", {"gpu": "custom", "vram_mib": "100", "tflops": "99999"}),
    ("tflops", {"gpu": "custom", "vram_mib": "100", "tflops": "<script>"}),
]
API_NONSENSE = [
    ("gpu", '{"gpu": ["quarter"]}'),
    ("vram_mib", '{"gpu": "custom", "vram_mib": "2048", "tflops": 1}'),
    ("vram_mib", '{"gpu": "custom", "vram_mib": true, "tflops": 1}'),
    ("vram_mib", '{"vram_mib": -5, "tflops": 1}'),
    ("vram_mib", '{"gpu": "custom", "vram_mib": 1000000000, "tflops": 1}'),
    ("tflops", '{"gpu": "custom", "vram_mib": 100, "tflops": NaN}'),
    ("tflops", '{"gpu": "custom", "vram_mib": 100, "tflops": Infinity}'),
    ("tflops", '{"gpu": "custom", "vram_mib": 100}'),
]


def test_nonsense_names_its_field_and_stores_nothing(demo: Demo, login: Login) -> None:
    dan = login("dan")
    before = len(demo.broker.leases("dan"))
    for field, fields in FORM_NONSENSE:
        answer = dan.submit(**fields)
        assert 400 <= answer.status_code < 500, (fields, answer.status_code)
        told = denial(answer.text)
        assert told, fields
        assert told.startswith(f"Your server did not start. {field}: "), told
        assert "got '<script>" not in answer.text  # only escaped
        assert dan.server() is None
    for field, body in API_NONSENSE:
        answer = dan.api("POST", "users/dan/server", content=body)
        assert answer.status_code in (400, 422), (body, answer.text)
        assert answer.json()["message"].startswith(f"{field}: "), answer.text
        dan.wait_stopped()
    assert len(demo.broker.leases("dan")) == before
    # Nor does the hub keep it: a start that says nothing takes what it keeps.
    assert dan.api("POST", "users/dan/server", content="{}").status_code in (201, 202)
    eventually(lambda: (dan.server() or {}).get("ready"), "it starts without a GPU", 60)
    assert not demo.leases("dan")


def test_a_limit_is_named_and_another_ones_lease_is_not_touched(demo: Demo, login: Login) -> None:
    eva, finn = login("eva"), login("finn")
    page = eva.form()
    assert "above your limit of 4,096 MiB" in page
    refused = eva.submit(gpu="whole")
    assert refused.status_code == 403
    assert "4,096 MiB" in str(denial(refused.text))
    eva.start(gpu="half")
    (lease,) = demo.leases("eva")
    theirs = f"{demo.url}/services/gpu/api/v1/leases/{lease.id}"
    headers = {"Authorization": f"Bearer {finn.token()}"}
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/credentials")]:
        answer = httpx.request(method, theirs + path, headers=headers)
        assert answer.status_code in (403, 404), (method, path)
    answer = httpx.post(
        f"{demo.url}/services/gpu/api/v1/leases",
        headers=headers,
        json={"user": "eva", "vram_mib": 100, "tflops": 1.0},
    )
    assert answer.status_code == 403
    assert answer.json()["field"] == "user"
    assert [each.id for each in demo.leases("eva")] == [lease.id]
