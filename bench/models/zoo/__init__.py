"""Whole models in plain PyTorch, in the shapes of the originals; ``--tiny`` in shapes of nothing.

A model here is what one step runs, its input and what a program reads of it. The weights are
random: a step takes as long with them. Knows PyTorch and nothing of Carrel.
"""

from __future__ import annotations

from collections.abc import Callable

from .case import Case
from .diffusion import unet
from .graph import edgecnn, gcn, gin
from .llama import llama, llama_decode, llama_prefill
from .speech import whisper
from .text import albert, bart, bert, mlp
from .vision import resnet50

#: By name. The argument is whether it is to be tiny.
MODELS: dict[str, Callable[[bool], Case]] = {
    "resnet50": resnet50,
    "bert": bert,
    "bart": bart,
    "llama": llama,
    "llama_prefill": llama_prefill,
    "llama_decode": llama_decode,
    "gcn": gcn,
    "gin": gin,
    "edgecnn": edgecnn,
    "unet": unet,
    "albert": albert,
    "whisper": whisper,
    "mlp": mlp,
}

__all__ = ["MODELS", "Case"]
