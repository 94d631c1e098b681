"""The spawn form's HTML: what is offered, what is not and why; nothing unescaped."""

from __future__ import annotations

import re
from typing import Any

from gpu_broker.models import Amount, Capacity, GpuCapacity, Quota
from hub_plugin import form
from hub_plugin.slices import Slice, read_sizes

SIZES = read_sizes(
    [
        {"name": "small", "label": "Small & <b>", "vram_mib": 2048, "tflops": 5},
        {"name": "large", "vram_mib": 8192, "tflops": 20},
    ]
)


def pool(*free: tuple[int, float]) -> Capacity:
    gpus = [
        GpuCapacity(
            node="node-1", index=index, uuid=f"GPU-{index}", model="Model <i>", vram_mib=8192,
            vram_free_mib=vram, tflops=20, tflops_free=tflops,
        )
        for index, (vram, tflops) in enumerate(free)
    ]  # fmt: skip
    nothing = Amount(vram_mib=0, tflops=0)
    return Capacity(gpus=gpus, largest_free=nothing, total=nothing, free=nothing)


def limits(vram: int | None = None, tflops: float | None = None) -> Quota:
    return Quota(
        user="ada", max_leases=None, max_vram_mib=vram, max_tflops=tflops, leases=0, vram_mib=0,
        tflops=0,
    )  # fmt: skip


def render(**given: Any) -> str:
    values: dict[str, Any] = {
        "sizes": SIZES, "allow_custom": True, "capacity": pool((8192, 20)), "quota": None,
        "options": {}, "denial": None, "trouble": None,
    }  # fmt: skip
    return form.render(form.environment(), **(values | given))


def radio(page: str, value: str) -> str:
    found = re.search(rf'<input[^>]*value="{value}"[^>]*>', page)
    assert found
    return found[0]


def test_why_a_size_cannot_be_had() -> None:
    two_halves = pool((4096, 20), (4096, 20))
    assert form.problem(Slice(4096, 10), two_halves, None) is None
    assert form.problem(Slice(8192, 10), two_halves, None) == "not free now"
    assert form.problem(Slice(4096, 20.5), two_halves, None) == "not free now"
    assert form.problem(Slice(9000, 1), two_halves, None) == "larger than any GPU here"
    assert form.problem(Slice(1, 1), pool(), None) == "no GPU is connected"
    assert form.problem(Slice(1, 1), None, None) is None
    assert form.problem(Slice(8192, 1), None, limits(4096)) == "above your limit of 4,096 MiB"
    assert form.problem(Slice(1, 9), None, limits(tflops=4)) == "above your limit of 4 TFLOPS"
    # Memory and compute must be free on the same GPU.
    assert form.problem(Slice(8192, 20), pool((8192, 1), (1, 20)), None) == "not free now"


def test_cards() -> None:
    page = render(capacity=pool((4096, 10)))
    assert "disabled" not in radio(page, "small")
    assert "checked" in radio(page, "small")
    assert "disabled" in radio(page, "large")
    assert "not free now" in page
    assert "4,096 of 8,192 MiB" in page
    assert "disabled" not in radio(page, "none")
    assert "disabled" not in radio(page, "custom")
    assert 'value="custom"' not in render(allow_custom=False)


def test_the_last_choice_comes_back() -> None:
    page = render(options={"gpu": "custom", "vram_mib": 300, "tflops": 1.5})
    assert "checked" in radio(page, "custom")
    assert 'value="300"' in page
    assert 'value="1.5"' in page
    assert "checked" in radio(render(options={"gpu": "none"}), "none")
    # A size that the site no longer has, or that is not free, is no choice.
    assert "checked" in radio(render(options={"gpu": "gone"}), "small")
    assert "checked" in radio(render(options={"gpu": "small"}, capacity=pool((1, 1))), "none")


def test_everything_is_escaped() -> None:
    page = render(
        denial=form.Denial("no <img src=x>", {"gpu": "custom", "vram_mib": '"><script>'}),
        trouble=None,
    )
    assert "<img" not in page
    assert '"><script>' not in page
    assert "Small &amp; &lt;b&gt;" in page
    assert "Model &lt;i&gt;" in page
    assert "Start without a GPU" in page


def test_a_pool_that_is_not_there() -> None:
    assert "No GPU is connected" in render(capacity=pool())
    silent = render(capacity=None, trouble="The broker is away.")
    assert "The broker is away." in silent
    assert "disabled" not in radio(silent, "small")
