"""Trains a model on the CPU and, compiled, on the slice; compares the losses.
Arguments: mlp or transformer; the number of steps; and ``cut`` for a program under
bench.network that has its connection broken in the middle of the loop.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable

import torch
import torch._inductor.config as inductor
import torch.nn.functional as F
from torch import Tensor, nn

TOLERANCE = 1e-4
# It would compute constants while compiling, with PyTorch's own kernels.
inductor.joint_graph_constant_folding = False
inductor.compile_threads = 1


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.second(F.relu(self.first(x)))))


class Transformer(nn.Module):
    """One block of causal attention over a small vocabulary."""

    words, width, length, heads = 50, 32, 16, 4

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.words, self.width)
        self.position = nn.Parameter(torch.randn(self.length, self.width) * 0.02)
        self.before_attention, self.before_mlp, self.before_words = (
            nn.LayerNorm(self.width) for _ in range(3)
        )
        self.to_qkv = nn.Linear(self.width, 3 * self.width)
        self.from_heads = nn.Linear(self.width, self.width)
        self.mlp = nn.Sequential(
            nn.Linear(self.width, 4 * self.width), nn.GELU(), nn.Linear(4 * self.width, self.width)
        )
        self.to_words = nn.Linear(self.width, self.words)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        batch, length, width = x.shape
        qkv = self.to_qkv(self.before_attention(x))
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-1, -2)) * (width // self.heads) ** -0.5
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        attention = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        x = x + self.from_heads((attention @ v).transpose(1, 2).reshape(batch, length, width))
        x = x + self.mlp(self.before_mlp(x))
        return self.to_words(self.before_words(x))


def train(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    device: str,
    halfway: Callable[[], None] = lambda: None,
) -> list[float]:
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return loss_of(model(x), y)

    step: Callable[[], object] = optimizer.step
    if device == "cuda":
        forward, step = torch.compile(forward), torch.compile(lambda: optimizer.step())
    losses = []
    for number, (x, y) in enumerate(batches):
        if number == len(batches) // 2:
            halfway()
        optimizer.zero_grad()
        loss = forward(x.to(device), y.to(device))
        loss.backward(torch.ones(()).to(device))  # the default would be filled by a kernel
        step()
        losses.append(loss.item())
    return losses


def cut_the_connection() -> None:
    os.kill(os.getppid(), signal.SIGUSR1)


def main(kind: str, steps: int, *options: str) -> None:
    torch.manual_seed(0)
    if kind == "mlp":
        model: nn.Module = Mlp()
        batches = [(torch.randn(8, 16), torch.randn(8, 4)) for _ in range(steps)]
        loss_of: Callable[[Tensor, Tensor], Tensor] = F.mse_loss
    else:
        model = Transformer()
        words, shape = Transformer.words, (4, Transformer.length)
        batches = [
            (torch.randint(0, words, shape), torch.randint(0, words, shape)) for _ in range(steps)
        ]

        def loss_of(out: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(out.flatten(0, 1), target.flatten())

    cpu = train(copy.deepcopy(model), batches, loss_of, "cpu")
    halfway = cut_the_connection if "cut" in options else lambda: None
    gpu = train(model, batches, loss_of, "cuda", halfway)
    print("CPU  ", *(f"{loss:.6f}" for loss in cpu))
    print("slice", *(f"{loss:.6f}" for loss in gpu))
    worst = max(abs(a - b) for a, b in zip(cpu, gpu, strict=True))
    assert len(set(cpu)) == steps
    assert worst <= TOLERANCE, worst
    print(f"{len(gpu)} losses agree to {worst:.1e}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
