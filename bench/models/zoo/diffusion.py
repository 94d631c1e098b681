"""A step of a diffusion model: the U-Net of Ho et al. 2020 (128 wide, ×1 ×2 ×2 ×2, attention at
16×16), 16 images of 64×64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .case import Case

GROUPS = 8


class Residual(nn.Module):
    def __init__(self, inner: int, outer: int, time: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, inner), nn.GroupNorm(GROUPS, outer)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)]
        )
        self.time, self.dropout = nn.Linear(time, outer), nn.Dropout(0.1)
        self.short = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out = self.convs[0](F.silu(self.norms[0](x)))
        out = out + self.time(F.silu(time))[:, :, None, None]
        out = self.convs[1](self.dropout(F.silu(self.norms[1](out))))
        both: Tensor = out + self.short(x)
        return both


class Look(nn.Module):
    """Attention over the places of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(GROUPS, width), Attention(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(places).transpose(1, 2).view_as(x)


class Stage(nn.Module):
    """A residual block, with attention where the image is small."""

    def __init__(self, inner: int, outer: int, time: int, look: bool) -> None:
        super().__init__()
        self.residual = Residual(inner, outer, time)
        self.look = Look(outer) if look else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out: Tensor = self.look(self.residual(x, time))
        return out


class UNet(nn.Module):
    def __init__(self, width: int, factors: tuple[int, ...], depth: int, look_at: int) -> None:
        super().__init__()
        self.width, time = width, 4 * width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, inner = [width], width
        for level, factor in enumerate(factors):
            for _ in range(depth):
                self.down.append(Stage(inner, width * factor, time, level == look_at))
                inner = width * factor
                kept.append(inner)
            if level + 1 < len(factors):
                self.down.append(nn.Conv2d(inner, inner, 3, 2, 1))
                kept.append(inner)
        self.middle = nn.ModuleList(
            [Stage(inner, inner, time, True), Stage(inner, inner, time, False)]
        )
        for level, factor in reversed(list(enumerate(factors))):
            for _ in range(depth + 1):
                outer = width * factor
                self.up.append(Stage(inner + kept.pop(), outer, time, level == look_at))
                inner = outer
            if level:
                self.up.append(nn.Conv2d(inner, inner, 3, padding=1))
        self.norm, self.last = nn.GroupNorm(GROUPS, inner), nn.Conv2d(inner, 3, 3, padding=1)

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        steps = torch.arange(self.width // 2, device=x.device) * (-9.21 / (self.width // 2))
        angles = at[:, None] * torch.exp(steps)
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1).to(x.dtype))
        x = self.first(x)
        kept = [x]
        for part in self.down:
            x = part(x, time) if isinstance(part, Stage) else part(x)
            kept.append(x)
        for part in self.middle:
            x = part(x, time)
        for part in self.up:
            if isinstance(part, Stage):
                x = part(torch.cat([x, kept.pop()], 1), time)
            else:
                x = part(F.interpolate(x, scale_factor=2.0))
        out: Tensor = self.last(F.silu(self.norm(x)))
        return out


def unet(tiny: bool) -> Case:
    """Inference takes a step from one noisy image to the next and reads how large it is."""
    batch, size = (2, 8) if tiny else (16, 64)
    model = UNet(8, (1, 2), 1, 1) if tiny else UNet(128, (1, 2, 2, 2), 2, 2)
    noise = torch.randn(batch, 3, size, size)
    return Case(
        model, (torch.randn(batch, 3, size, size), torch.rand(batch) * 1000),
        lambda out: out.float().square().mean(), noise, F.mse_loss,
    )  # fmt: skip
