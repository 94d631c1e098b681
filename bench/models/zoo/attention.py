"""Multi-head attention and the two kinds of transformer block that the models are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Attention of ``heads`` heads over itself, or over ``memory`` (cross-attention)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        other = x if memory is None else memory
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(other), self.value(other))
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and memory is None,
        )  # fmt: skip
        mixed_out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return mixed_out


class Block(nn.Module):
    """Attention, cross-attention if there is a memory, and two linear layers.

    ``first`` says whether the norms come before what they norm (Whisper) or after (BERT, BART).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        *,
        dropout: float = 0.1,
        causal: bool = False,
        cross: bool = False,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.first = first
        self.attention = Attention(width, heads, dropout, causal)
        self.norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, dropout) if cross else None
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        if self.first:
            x = x + self.dropout(self.attention(self.norm(x)))
            if self.cross is not None and self.cross_norm is not None:
                x = x + self.dropout(self.cross(self.cross_norm(x), memory))
            return x + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))))
        x = self.norm(x + self.dropout(self.attention(x)))
        if self.cross is not None and self.cross_norm is not None:
            x = self.cross_norm(x + self.dropout(self.cross(x, memory)))
        normed: Tensor = self.mlp_norm(x + self.dropout(self.down(F.gelu(self.up(x)))))
        return normed
