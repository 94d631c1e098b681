"""Compiles the Triton kernels below to PTX for a device of compute capability 8.0, without a GPU.

    python generate.py        with triton installed; writes *.ptx and kernels.json beside itself

The PTX is checked in, so that ``triton_kernels.py`` needs no Triton.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Triton wants an assembler; the PTX itself will do.
os.environ["TRITON_PTXAS_PATH"] = str(HERE / "copy_ptx.py")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402


@triton.jit
def vector_add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    total = tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside)
    tl.store(out + at, total, mask=inside)


@triton.jit
def softmax(out, x, rows, columns, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < columns
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=3):
        value = tl.load(x + row * columns + column, mask=inside, other=-float("inf"))
        power = tl.exp(value - tl.max(value, axis=0))
        tl.store(out + row * columns + column, power / tl.sum(power, axis=0), mask=inside)


@triton.jit
def matmul(a, b, c, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    left = a + (row % m)[:, None] * k + inner[None, :]
    right = b + inner[:, None] * n + (column % n)[None, :]
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        x = tl.load(left, mask=inner[None, :] < k - start, other=0.0)
        y = tl.load(right, mask=inner[:, None] < k - start, other=0.0)
        total = tl.dot(x, y, total)
        left += K
        right += K * n
    inside = (row[:, None] < m) & (column[None, :] < n)
    tl.store(c + row[:, None] * n + column[None, :], total, mask=inside)


@triton.jit
def layer_norm(x, out, weight, bias, columns, epsilon, BLOCK: tl.constexpr):
    x += tl.program_id(0) * columns
    out += tl.program_id(0) * columns
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x + at, mask=at < columns, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / columns
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < columns, other=0.0).to(tl.float32)
        squares += tl.where(at < columns, (value - mean) * (value - mean), 0.0)
    scale = 1 / tl.sqrt(tl.sum(squares, axis=0) / columns + epsilon)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < columns
        value = (tl.load(x + at, mask=inside).to(tl.float32) - mean) * scale
        value = value * tl.load(weight + at, mask=inside) + tl.load(bias + at, mask=inside)
        tl.store(out + at, value, mask=inside)


@triton.jit
def locked_sum(x, out, lock, columns, BLOCK: tl.constexpr):
    """Rows are added up one after the other, under a spin lock."""
    at = tl.arange(0, BLOCK)
    inside = at < columns
    row = tl.load(x + tl.program_id(0) * columns + at, mask=inside)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(out + at, tl.load(out + at, mask=inside) + row, mask=inside)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@triton.jit
def attention(q, k, v, out, scale, n, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    row = tl.program_id(0) * M + tl.arange(0, M)
    depth = tl.arange(0, D)
    query = tl.load(q + row[:, None] * D + depth[None, :])
    most = tl.zeros([M], dtype=tl.float32) - float("inf")
    weight = tl.zeros([M], dtype=tl.float32)
    total = tl.zeros([M, D], dtype=tl.float32)
    for start in range(0, n, N):
        column = start + tl.arange(0, N)
        scores = tl.dot(query, tl.load(k + column[None, :] * D + depth[:, None])) * scale
        higher = tl.maximum(most, tl.max(scores, 1))
        power = tl.exp(scores - higher[:, None])
        fade = tl.exp(most - higher)
        weight = weight * fade + tl.sum(power, 1)
        value = tl.load(v + column[:, None] * D + depth[None, :])
        total = tl.dot(power.to(value.dtype), value, total * fade[:, None])
        most = higher
    tl.store(out + row[:, None] * D + depth[None, :], total / weight[:, None])


@triton.jit
def dropout(x, out, n, share, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    kept = tl.rand(seed, at) > share
    value = tl.load(x + at, mask=inside)
    tl.store(out + at, tl.where(kept, value / (1 - share), 0.0), mask=inside)


def build(name: str, kernel, types: list[str], constants: dict[str, int], **options) -> dict:
    rest = iter(types)
    signature = {a: "constexpr" if a in constants else next(rest) for a in kernel.arg_names}
    even = {
        (i,): [["tt.divisibility", 16]]
        for i, a in enumerate(kernel.arg_names)
        if signature[a].startswith("*") or (signature[a] == "i32" and a in ("k", "n", "columns"))
    }
    if name in ("vector_add", "dropout"):
        even = {at: what for at, what in even.items() if kernel.arg_names[at[0]] != "n"}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(a),): value for a, value in constants.items()},
        attrs=even,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    text = re.sub(r"\s*\.section\s+\.debug_\w+\s*\{.*?\n\s*\}", "", compiled.asm["ptx"], flags=re.S)
    kept = (line for line in text.splitlines() if not re.match(r"\s*(\.loc|\.file|//|$)", line))
    lines = (re.sub(r"\s*//.*", "", line).rstrip() for line in kept)
    (HERE / f"{name}.ptx").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = compiled.metadata
    return {"kernel": facts.name, "shared": facts.shared, "threads": 32 * facts.num_warps}


def main() -> None:
    tiles = {"M": 64, "N": 64, "K": 32}
    heads = {"M": 64, "N": 64, "D": 64}
    facts = {
        "vector_add": build("vector_add", vector_add, ["*fp32"] * 3 + ["i32"], {"BLOCK": 1024}),
        "softmax": build(
            "softmax", softmax, ["*fp32"] * 2 + ["i32"] * 2, {"BLOCK": 1024}, num_warps=8
        ),
        "matmul_fp16": build("matmul_fp16", matmul, ["*fp16"] * 3 + ["i32"] * 3, tiles),
        "matmul_tf32": build("matmul_tf32", matmul, ["*fp32"] * 3 + ["i32"] * 3, tiles),
        "layer_norm": build(
            "layer_norm", layer_norm, ["*fp16"] * 4 + ["i32", "fp32"], {"BLOCK": 1024}
        ),
        "locked_sum": build(
            "locked_sum", locked_sum, ["*fp32"] * 2 + ["*i32", "i32"], {"BLOCK": 512}
        ),
        "attention_bf16": build(
            "attention_bf16", attention, ["*bf16"] * 4 + ["fp32", "i32"], heads, num_stages=2
        ),
        "dropout": build(
            "dropout", dropout, ["*fp32"] * 2 + ["i32", "fp32", "i32"], {"BLOCK": 1024}
        ),
    }
    (HERE / "kernels.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
