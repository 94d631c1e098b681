"""Graph networks of three layers, 64 wide, on a random graph of 10,000 nodes and 200,000 edges, as
TorchBench's basic_gnn models have: Kipf and Welling 2016 (GCN), Xu et al. 2018 (GIN), Wang et al.
2018 (EdgeCNN). Written with index_select and scatter_add; self-loops are added without looking for
those that are there, which would wait for the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case


def gather(nodes: int, to: Tensor, messages: Tensor) -> Tensor:
    """The sum of the messages to each node."""
    out = messages.new_zeros(nodes, messages.shape[1])
    return out.scatter_add(0, to[:, None].expand_as(messages), messages)


class Gcn(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inner, outer, bias=False)
        self.bias = nn.Parameter(torch.zeros(outer))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        nodes = x.shape[0]
        loops = torch.arange(nodes, device=x.device).expand(2, nodes)
        source, to = torch.cat([edges, loops], 1).unbind(0)
        degree = x.new_zeros(nodes).scatter_add(0, to, x.new_ones(to.shape[0]))
        scale = degree.rsqrt()
        weight = scale.index_select(0, source) * scale.index_select(0, to)
        messages = self.linear(x).index_select(0, source)
        return gather(nodes, to, messages * weight[:, None].to(messages.dtype)) + self.bias


class Gin(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(inner, outer), nn.BatchNorm1d(outer), nn.ReLU(), nn.Linear(outer, outer)
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, to = edges.unbind(0)
        out: Tensor = self.mlp(x + gather(x.shape[0], to, x.index_select(0, source)))
        return out


class EdgeConv(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * inner, outer), nn.BatchNorm1d(outer), nn.ReLU(), nn.Linear(outer, outer)
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, to = edges.unbind(0)
        here = x.index_select(0, to)
        messages = self.mlp(torch.cat([here, x.index_select(0, source) - here], -1))
        out = messages.new_full((x.shape[0], messages.shape[1]), float("-inf"))
        largest = out.scatter_reduce(0, to[:, None].expand_as(messages), messages, "amax")
        return largest.masked_fill(largest == float("-inf"), 0.0)


class Gnn(nn.Module):
    def __init__(self, layer: type[nn.Module], layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(width, width) for _ in range(layers))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(F.relu(x) if i else x, edges)
        return x


def case(layer: type[nn.Module], tiny: bool) -> Case:
    nodes, edges, width = (32, 96, 8) if tiny else (10_000, 200_000, 64)
    model = Gnn(layer, 2 if tiny else 3, width)
    classes = torch.randint(0, width, (nodes,))
    return Case(
        model, (torch.randn(nodes, width), torch.randint(0, nodes, (2, edges))),
        lambda out: out.argmax(-1), classes, F.cross_entropy,
    )  # fmt: skip


def gcn(tiny: bool) -> Case:
    return case(Gcn, tiny)


def gin(tiny: bool) -> Case:
    return case(Gin, tiny)


def edgecnn(tiny: bool) -> Case:
    return case(EdgeConv, tiny)
