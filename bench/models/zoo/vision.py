"""ResNet-50 (He et al. 2015, the stride in the 3×3 as in torchvision), 32 images of 224×224."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case


def conv(inner: int, outer: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, size, stride, size // 2, bias=False), nn.BatchNorm2d(outer)
    )


class Bottleneck(nn.Module):
    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        outer = 4 * width
        self.narrow, self.look = conv(inner, width, 1), conv(width, width, 3, stride)
        self.widen = conv(width, outer, 1)
        same = inner == outer and stride == 1
        self.short = nn.Identity() if same else conv(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.narrow(x), inplace=True)
        out = F.relu(self.look(out), inplace=True)
        return F.relu(self.widen(out) + self.short(x), inplace=True)


class ResNet(nn.Module):
    def __init__(self, depths: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.stem, self.pool = conv(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)
        blocks, inner = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                blocks.append(Bottleneck(inner, width << stage, 2 if stage and i == 0 else 1))
                inner = 4 * (width << stage)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(F.relu(self.stem(x), inplace=True)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def resnet50(tiny: bool) -> Case:
    batch, size, classes = (2, 32, 10) if tiny else (32, 224, 1000)
    model = ResNet((1, 1), 8, classes) if tiny else ResNet((3, 4, 6, 3), 64, classes)
    labels = torch.randint(0, classes, (batch,))
    return Case(
        model, (torch.randn(batch, 3, size, size),), lambda out: out.argmax(-1),
        labels, F.cross_entropy,
    )  # fmt: skip
