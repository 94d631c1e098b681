"""A model in the shape of Whisper small (Radford et al. 2022): 12 + 12 layers, 768 wide, 51,865
words; 30 s of sound as 3,000 frames of 80 bands, 128 words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Block
from .case import Case
from .text import last_word, words_loss


class Whisper(nn.Module):
    def __init__(
        self, bands: int, frames: int, words: int, width: int, layers: int, heads: int, length: int
    ) -> None:
        super().__init__()
        self.near = nn.Conv1d(bands, width, 3, padding=1)
        self.halve = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.places = nn.Parameter(torch.randn(frames // 2, width) * 0.02)
        self.words = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.encoder = nn.ModuleList(
            Block(width, heads, 4 * width, dropout=0.0, first=True) for _ in range(layers)
        )
        self.decoder = nn.ModuleList(
            Block(width, heads, 4 * width, dropout=0.0, first=True, causal=True, cross=True)
            for _ in range(layers)
        )
        self.heard, self.said = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, sound: Tensor, words: Tensor) -> Tensor:
        x = F.gelu(self.halve(F.gelu(self.near(sound)))).transpose(1, 2) + self.places
        for block in self.encoder:
            x = block(x)
        memory = self.heard(x)
        y = self.words(words) + self.positions
        for block in self.decoder:
            y = block(y, memory)
        return F.linear(self.said(y), self.words.weight)


def whisper(tiny: bool) -> Case:
    bands, frames, words, batch, length = (8, 32, 50, 2, 8) if tiny else (80, 3000, 51_865, 1, 128)
    model = (
        Whisper(bands, frames, words, 32, 1, 4, length)
        if tiny
        else Whisper(bands, frames, words, 768, 12, 12, length)
    )
    text = torch.randint(0, words, (batch, length))
    return Case(model, (torch.randn(batch, bands, frames), text), last_word, text, words_loss)
