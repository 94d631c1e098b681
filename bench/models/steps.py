"""Makes the step of a model: eager, compiled, or captured in a CUDA graph. Knows PyTorch only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .zoo import MODELS, Case
from .zoo.case import TRAINING

EAGER, COMPILED, GRAPH = MODES = ("eager", "compile", "graph")
Step = Callable[[], object]


def make_step(model: str, task: str, mode: str, tiny: bool, compiled_only: bool) -> Step:
    """One step, which ends with the program reading its result.

    Inference has 16-bit numbers (bfloat16) and training mixed ones, as is usual.

    Args:
        compiled_only: the device runs none of PyTorch's own kernels (a software GPU): weights are
            made on the CPU, attention is spelt out, and numbers stay 32 bits wide.
    """
    if compiled_only and mode != COMPILED:
        raise ValueError("on a software GPU only compiled models run")
    torch.manual_seed(1)
    if compiled_only:
        # It would compute constants while compiling, with PyTorch's own kernels.
        torch._inductor.config.joint_graph_constant_folding = False
        case = MODELS[model](tiny)
        case.model.to("cuda")
        case.inputs = tuple(one.to("cuda") for one in case.inputs)
        case.target = None if case.target is None else case.target.to("cuda")
    else:
        with torch.device("cuda"):  # nothing lies in the host's memory first
            case = MODELS[model](tiny)
    step = (
        _training(case, mode, compiled_only)
        if task == TRAINING
        else _inference(case, mode, compiled_only)
    )
    if not compiled_only:
        return step

    def spelt_out() -> object:
        with sdpa_kernel(SDPBackend.MATH):
            return step()

    return spelt_out


def _inference(case: Case, mode: str, compiled_only: bool) -> Step:
    model = case.model.eval()
    if not compiled_only:
        model = model.to(torch.bfloat16)
        case.inputs = tuple(
            one.to(torch.bfloat16) if one.is_floating_point() else one for one in case.inputs
        )

    @torch.no_grad()
    def run() -> Tensor:
        return case.answer(model(*case.inputs))

    on_device = _captured(run) if mode == GRAPH else _compiled(run) if mode == COMPILED else run
    return lambda: on_device().cpu()


def _training(case: Case, mode: str, compiled_only: bool) -> Step:
    model = case.model.train()
    assert case.loss is not None
    loss_of, target = case.loss, case.target
    assert target is not None
    optimizer: torch.optim.Optimizer
    if compiled_only:  # AdamW counts its steps with a kernel of its own
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, capturable=mode == GRAPH)
    one = torch.ones(()).to("cuda")  # where gradients begin; else a kernel fills it at each step

    def forward() -> Tensor:
        mixed = torch.autocast("cuda", torch.bfloat16, enabled=not compiled_only)
        with mixed if not compiled_only else contextlib.nullcontext():
            out = model(*case.inputs)
        return loss_of(out.float() if out.is_floating_point() else out, target)

    update: Callable[[], object] = optimizer.step
    if mode == COMPILED:
        forward = _compiled(forward)
        if compiled_only:
            update = _compiled(lambda: optimizer.step())

    def run() -> Tensor:
        optimizer.zero_grad()
        loss = forward()
        loss.backward(one)
        update()
        return loss.detach()

    on_device = _captured(run) if mode == GRAPH else run
    return lambda: on_device().item()


def _compiled(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    compiled: Callable[[], Tensor] = torch.compile(function)
    return compiled


def _captured(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What ``function`` does on the device, recorded once and replayed at each call."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # whatever is only made at first
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
