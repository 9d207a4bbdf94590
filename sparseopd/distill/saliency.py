"""Record what the optimizer sees of every coordinate while discovery runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from sparseopd.artifacts import written_whole
from sparseopd.pairs import checkpoint_pieces


class SaliencyRecorder(TrainerCallback):
    """Sum |g| of every parameter over the run (gradient), or read |m|/√v off Adam (momentum).

    Gradients are taken as the optimizer gets them, after clipping. Costs one fp32 copy of the weights.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sums: dict[str, Tensor] = {}
        self._optimizer: Any = None

    def on_pre_optimizer_step(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Add the gradients of this update."""
        self._optimizer = optimizer
        if self._kind != "gradient":
            return
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                size = weight.grad.detach().float().abs()
                self._sums[name] = self._sums[name].add_(size) if name in self._sums else size

    def save(self, model: nn.Module, folder: Path) -> Path:
        """Write the scores as a checkpoint folder, fp32 by checkpoint name; return the folder."""
        tensors = {
            piece: values.detach().float().cpu().contiguous()
            for name, weight in model.named_parameters()
            for piece, values in checkpoint_pieces(model, name, self._scores(name, weight)).items()
        }
        folder.mkdir(exist_ok=True)
        with written_whole(folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)
        return folder

    def _scores(self, name: str, weight: nn.Parameter) -> Tensor:
        state = self._optimizer.state.get(weight, {}) if self._optimizer is not None else {}
        if self._kind == "gradient":
            return self._sums.get(name, torch.zeros_like(weight, dtype=torch.float32))
        if "exp_avg_sq" not in state:  # never received a gradient
            return torch.zeros_like(weight, dtype=torch.float32)
        moment, spread = state["exp_avg"], state["exp_avg_sq"].sqrt()
        return torch.where(spread > 0, moment.abs() / spread, 0.0)
