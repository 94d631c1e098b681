"""What PyTorch does with a device besides running kernels. Argument: which part to check."""

from __future__ import annotations

import sys

import torch

MIB = 1 << 20


def properties() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 1
    found = torch.cuda.get_device_properties(0)
    assert found.name == "Carrel Software GPU", found.name
    assert (found.major, found.minor) == (8, 0)
    assert found.total_memory == 1024 * MIB, found.total_memory
    assert torch.cuda.get_device_capability() == (8, 0)
    free, total = torch.cuda.mem_get_info()
    assert 0 < free <= total == 1024 * MIB


def copies() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8):
        host = torch.arange(10_000).to(dtype).reshape(100, 100)
        device = host.to("cuda")
        assert device.is_cuda
        assert torch.equal(device.cpu(), host)
        assert torch.equal(device.clone().cpu(), host)
        assert torch.equal(device[3:7].cpu(), host[3:7])
    zeros = torch.zeros(1000, device="cuda")
    assert torch.equal(zeros.cpu(), torch.zeros(1000))
    assert device[5, 5].item() == host[5, 5].item()


def streams() -> None:
    host = torch.randn(MIB)
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(first):
        begin.record()
        source = host.to("cuda")
        end.record()
    second.wait_event(end)
    with torch.cuda.stream(second):
        copied = source.clone()
    second.synchronize()
    assert end.query()
    assert begin.elapsed_time(end) >= 0
    assert torch.equal(copied.cpu(), host)
    assert first != second


def pinned() -> None:
    host = torch.randn(MIB).pin_memory()
    assert host.is_pinned()
    device = host.to("cuda", non_blocking=True)
    back = torch.empty(MIB, pin_memory=True)
    back.copy_(device, non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(back, host)


def allocator() -> None:
    """Blocks of changing sizes, up to most of the memory, freed and used again, all intact."""
    kept = {}
    for step in range(300):
        size = (step * 7919) % (6 * MIB) + 1
        kept[step % 40] = (torch.full((size,), step % 251, dtype=torch.uint8).to("cuda"), step)
    assert all(bool((block.cpu() == step % 251).all()) for block, step in kept.values())
    assert torch.cuda.memory_allocated() > 0
    kept.clear()
    assert torch.cuda.memory_allocated() == 0
    # What is cached must be given back for something larger.
    large = torch.empty(900 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_reserved() >= 900 * MIB
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0


def out_of_memory() -> None:
    try:
        torch.empty(2048 * MIB, dtype=torch.uint8, device="cuda")
    except torch.cuda.OutOfMemoryError as error:
        text = str(error)
    else:
        raise AssertionError("2 GiB of 1 GiB were granted")
    assert "2.00 GiB" in text, text
    host = torch.randn(1000)
    assert torch.equal(host.to("cuda").cpu(), host)  # the context is well


def products() -> None:
    torch.manual_seed(1)
    for dtype, tolerance in (
        (torch.float32, 1e-4), (torch.float64, 1e-10), (torch.float16, 2e-2),
        (torch.bfloat16, 2e-1),
    ):  # fmt: skip
        a, b = torch.randn(64, 48, dtype=dtype), torch.randn(48, 32, dtype=dtype)
        bias = torch.randn(32, dtype=dtype)
        on_a, on_b, on_bias = a.cuda(), b.cuda(), bias.cuda()
        wide = a.double() @ b.double()
        torch.testing.assert_close(
            (on_a @ on_b).cpu().double(), wide, atol=tolerance, rtol=tolerance
        )
        linear = torch.nn.functional.linear(on_a, on_b.t(), on_bias)
        torch.testing.assert_close(
            linear.cpu().double(), wide + bias.double(), atol=tolerance, rtol=tolerance
        )
        batch = torch.stack([a, -a]).cuda() @ torch.stack([b, b]).cuda()
        torch.testing.assert_close(batch[1].cpu().double(), -wide, atol=tolerance, rtol=tolerance)


def graphs() -> None:
    """A captured product, replayed on other numbers."""
    a, b = torch.randn(32, 48), torch.randn(48, 16)
    on_a, on_b = a.cuda(), b.cuda()
    _ = on_a @ on_b  # makes the handle outside of the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = on_a @ on_b
    on_a.copy_(2 * a)
    graph.replay()
    torch.testing.assert_close(result.cpu(), 2 * a @ b, atol=1e-4, rtol=1e-4)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    torch.cuda.synchronize()
    print(f"{sys.argv[1]}: well")
