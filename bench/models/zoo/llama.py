"""A decoder in the shape of Llama: Touvron et al. 2023.

For inference, Llama 3.2 1B (16 layers, 2,048 wide, 32 heads that share 8 keys, 128,256 words):
reading a prompt of 512 words, and writing one word after another, each of which the program reads.
For training, the shape of a small one (12 layers, 768 wide, 32,000 words), four texts of 512 words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case
from .text import last_word, words_loss


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
        return scaled.to(x.dtype) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: pairs of a head's halves, turned by an angle of the position."""
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, shared: int, inner: int) -> None:
        super().__init__()
        head = width // heads
        self.heads, self.shared, self.head = heads, shared, head
        self.query = nn.Linear(width, width, bias=False)
        self.key, self.value = (nn.Linear(width, shared * head, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)
        self.norms = nn.ModuleList(Norm(width) for _ in range(2))

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: tuple[Tensor, Tensor] | None, at: Tensor,
        seen: Tensor | None,
    ) -> Tensor:  # fmt: skip
        y = self.norms[0](x)
        q = self.query(y).unflatten(-1, (self.heads, self.head)).transpose(1, 2)
        k = self.key(y).unflatten(-1, (self.shared, self.head)).transpose(1, 2)
        v = self.value(y).unflatten(-1, (self.shared, self.head)).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=self.heads != self.shared
        )
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        written: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return written


class Llama(nn.Module):
    """Words to words. With a ``cache`` of so many places it reads one word a call and remembers."""

    cos: Tensor
    sin: Tensor
    at: Tensor
    places: Tensor

    def __init__(
        self, words: int, width: int, layers: int, heads: int, shared: int, inner: int,
        length: int, cache: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.layers = nn.ModuleList(Layer(width, heads, shared, inner) for _ in range(layers))
        self.norm = Norm(width)
        head = width // heads
        turns = 500_000.0 ** (-torch.arange(0, head, 2) / head)
        angles = torch.arange(max(length, cache))[:, None] * turns
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.register_buffer("at", torch.zeros(1, dtype=torch.long))
        self.register_buffer("places", torch.arange(cache))
        for i in range(layers if cache else 0):
            for name in ("keys", "values"):
                self.register_buffer(f"{name}{i}", torch.zeros(1, shared, cache, head))

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        if len(self.places) == 0:
            length = words.shape[1]
            cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
            for layer in self.layers:
                x = layer(x, cos, sin, None, self.at, None)
        else:
            cos, sin = (
                table.index_select(0, self.at).to(x.dtype) for table in (self.cos, self.sin)
            )
            seen = (self.places <= self.at)[None, None, None]
            for i, layer in enumerate(self.layers):
                cache = (getattr(self, f"keys{i}"), getattr(self, f"values{i}"))
                x = layer(x, cos, sin, cache, self.at, seen)
            self.at.add_(1).remainder_(len(self.places))
        return F.linear(self.norm(x), self.words.weight)


def llama(tiny: bool) -> Case:
    words, batch, length = (50, 2, 16) if tiny else (32_000, 4, 512)
    model = (
        Llama(words, 32, 2, 4, 2, 64, length)
        if tiny
        else Llama(words, 768, 12, 12, 12, 3072, length)
    )
    text = torch.randint(0, words, (batch, length))
    return Case(model, (text,), last_word, text, words_loss)


def _large(tiny: bool, cache: int, length: int) -> Case:
    words = 50 if tiny else 128_256
    model = (
        Llama(words, 32, 2, 4, 2, 64, length, cache)
        if tiny
        else Llama(words, 2048, 16, 32, 8, 8192, length, cache)
    )
    text = torch.randint(0, words, (1, length))
    return Case(model, (text,), last_word)


def llama_prefill(tiny: bool) -> Case:
    return _large(tiny, 0, 16 if tiny else 512)


def llama_decode(tiny: bool) -> Case:
    return _large(tiny, 32 if tiny else 1024, 1)
