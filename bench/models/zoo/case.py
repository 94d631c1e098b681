"""What is measured of a model: one step of inference or of training, ending with what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

INFERENCE, TRAINING = "infer", "train"


@dataclass
class Case:
    """A model and what is done with it.

    Args:
        model: called with ``inputs``.
        inputs: tensors; on the device before a step begins.
        answer: of the model's output, the small tensor that a program reads after inference.
        target: what the output should be; None for inference only.
        loss: of the output and the target, a scalar; what a program reads after training.
        tasks: which steps make sense.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    answer: Callable[[Tensor], Tensor]
    target: Tensor | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        return (INFERENCE,) if self.loss is None else (INFERENCE, TRAINING)
