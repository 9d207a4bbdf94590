"""Record what the optimizer sees of every coordinate while discovery runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparseopd.artifacts import written_whole
from sparseopd.distill.resume import ResumableCallback
from sparseopd.pairs import checkpoint_pieces

_SUMS = "saliency.safetensors"


class SaliencyRecorder(ResumableCallback):
    """Sum |g| of every parameter over the run (gradient), or read |m|/√v off Adam (momentum).

    Gradients are taken as the optimizer gets them, after clipping. Costs one fp32 copy of the weights.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sums: dict[str, Tensor] = {}
        self._optimizer: Any = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """Take over the optimizer, which has its moments again where a run is resumed."""
        self._optimizer = optimizer

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Add the gradients of this update."""
        if self._kind != "gradient":
            return
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                size = weight.grad.detach().float().abs()
                before = self._sums.get(name)
                # Sums of a resumed run are on the CPU at first.
                self._sums[name] = size if before is None else before.to(size.device).add_(size)

    def save_state(self, folder: Path) -> None:
        """Write the sums, fp32 by parameter name; the moments are in the optimizer's own state."""
        if self._kind == "gradient":
            stored = {name: _stored(values) for name, values in self._sums.items()}
            _write(stored, folder / _SUMS)

    def load_state(self, folder: Path) -> None:
        """Read the sums."""
        if self._kind == "gradient":
            self._sums = load_file(folder / _SUMS)

    def save(self, model: nn.Module, folder: Path) -> Path:
        """Write the scores as a checkpoint folder, fp32 by checkpoint name; return the folder."""
        tensors = {
            piece: _stored(values)
            for name, weight in model.named_parameters()
            for piece, values in checkpoint_pieces(model, name, self._scores(name, weight)).items()
        }
        folder.mkdir(exist_ok=True)
        _write(tensors, folder / "model.safetensors")
        return folder

    def _scores(self, name: str, weight: nn.Parameter) -> Tensor:
        state = self._optimizer.state.get(weight, {}) if self._optimizer is not None else {}
        if self._kind == "gradient":
            return self._sums.get(name, torch.zeros_like(weight, dtype=torch.float32))
        if "exp_avg_sq" not in state:  # never received a gradient
            return torch.zeros_like(weight, dtype=torch.float32)
        moment, spread = state["exp_avg"], state["exp_avg_sq"].sqrt()
        return torch.where(spread > 0, moment.abs() / spread, 0.0)


def _stored(values: Tensor) -> Tensor:
    return values.detach().float().cpu().contiguous()


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    with written_whole(path) as temporary:
        save_file(tensors, temporary)
