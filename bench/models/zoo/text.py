"""BERT, Albert and BART, base size, with the heads they were trained with; and a small MLP.

Shapes: Devlin et al. 2018 (12 layers, 768 wide, 12 heads, 30,522 words), Lan et al. 2019 (one layer
twelve times, words 128 wide), Lewis et al. 2019 (6 + 6 layers, 768 wide, 50,265 words). Four texts
of 512 words, as TorchBench's hf_Bert, hf_Albert and hf_Bart have.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Block
from .case import Case


def words_loss(out: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), words.flatten())


def last_word(out: Tensor) -> Tensor:
    return out[:, -1].argmax(-1)


class Embedding(nn.Module):
    """Words, positions and kinds of sentence, added, normed and thinned out."""

    def __init__(self, words: int, width: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.positions = nn.Embedding(length, width)
        self.kinds = nn.Embedding(2, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.1)

    def forward(self, words: Tensor) -> Tensor:
        at = torch.arange(words.shape[1], device=words.device)
        x = self.words(words) + self.positions(at) + self.kinds(torch.zeros_like(words))
        out: Tensor = self.dropout(self.norm(x))
        return out


class Bert(nn.Module):
    def __init__(
        self, words: int, width: int, layers: int, heads: int, length: int, *,
        embedded: int | None = None, shared: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        small = embedded or width
        self.embedding = Embedding(words, small, length)
        self.widen = nn.Linear(small, width) if embedded else nn.Identity()
        made = 1 if shared else layers
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(made))
        self.times = layers // made
        self.narrow, self.norm = nn.Linear(width, small), nn.LayerNorm(small)
        self.to_words = nn.Linear(small, words)
        self.to_words.weight = self.embedding.words.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.widen(self.embedding(words))
        for block in self.blocks:
            for _ in range(self.times):
                x = block(x)
        out: Tensor = self.to_words(self.norm(F.gelu(self.narrow(x))))
        return out


class Bart(nn.Module):
    def __init__(self, words: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=1)
        self.positions = nn.ModuleList(nn.Embedding(length, width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(0.1)
        self.encoder = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.decoder = nn.ModuleList(
            Block(width, heads, 4 * width, causal=True, cross=True) for _ in range(layers)
        )

    def embed(self, words: Tensor, side: int) -> Tensor:
        at = torch.arange(words.shape[1], device=words.device)
        x: Tensor = self.norms[side](self.words(words) + self.positions[side](at))
        return x

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self.dropout(self.embed(source, 0))
        for block in self.encoder:
            memory = block(memory)
        x = self.dropout(self.embed(target, 1))
        for block in self.decoder:
            x = block(x, memory)
        return F.linear(x, self.words.weight)


def bert(tiny: bool) -> Case:
    words, batch, length = (50, 2, 16) if tiny else (30522, 4, 512)
    model = Bert(words, 32, 2, 4, length) if tiny else Bert(words, 768, 12, 12, length)
    text = torch.randint(0, words, (batch, length))
    return Case(model, (text,), last_word, text, words_loss)


def albert(tiny: bool) -> Case:
    words, batch, length = (50, 2, 16) if tiny else (30000, 4, 512)
    width, layers, heads, embedded = (32, 2, 4, 8) if tiny else (768, 12, 12, 128)
    model = Bert(words, width, layers, heads, length, embedded=embedded, shared=True)
    text = torch.randint(0, words, (batch, length))
    return Case(model, (text,), last_word, text, words_loss)


def bart(tiny: bool) -> Case:
    words, batch, length = (50, 2, 16) if tiny else (50265, 4, 512)
    model = Bart(words, 32, 1, 4, length) if tiny else Bart(words, 768, 6, 12, length)
    text = torch.randint(0, words, (2, batch, length)).unbind(0)
    return Case(model, text, last_word, text[1], words_loss)


def mlp(tiny: bool) -> Case:
    """A small program's model: what a student's first network is like."""
    batch, width, classes = (8, 16, 4) if tiny else (64, 784, 10)
    hidden = 32 if tiny else 512
    model = nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.GELU(),
        nn.Linear(hidden, classes),
    )  # fmt: skip
    goal = torch.randn(batch, classes)
    return Case(model, (torch.randn(batch, width),), lambda out: out.argmax(-1), goal, F.mse_loss)
