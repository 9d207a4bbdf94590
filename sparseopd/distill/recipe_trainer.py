"""What every trainer of this package does beside TRL's: our optimizer, and a check on the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from sparseopd.errors import TrainingError

BuildOptimizer = Callable[[torch.nn.Module], torch.optim.Optimizer]


class RecipeTrainer(Trainer):
    """Put before one of TRL's trainers, builds its optimizer by a function and stops at a bad loss."""

    def __init__(self, *, build_optimizer: BuildOptimizer, **settings: Any) -> None:
        self._build_optimizer = build_optimizer
        super().__init__(**settings)
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer over the model on its final device (called once by `Trainer`)."""
        if self.optimizer is None:
            chosen: Any = self.model if model is None else model
            self.optimizer = self._build_optimizer(chosen)
        return self.optimizer

    def training_step(self, *inputs: Any, **settings: Any) -> Tensor:
        """Sample if it is time, and run one forward and backward.

        Raises `TrainingError` if the loss, or a probability to sample by, is not finite.
        """
        try:
            loss = super().training_step(*inputs, **settings)
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise TrainingError(
                f"the student's probabilities are not finite at step {self.state.global_step + 1}: nothing "
                "was saved; lower optimizer.lr, or check its weights"
            ) from error
        if not torch.isfinite(loss).all():
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: nothing was saved; "
                "lower optimizer.lr, or check the teacher's weights"
            )
        return loss
