"""The parameters of a model in memory, under the names its checkpoint has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseopd.pairs.parameters import checkpoint_pieces


class ModelTensors:
    """The parameters of a model in memory; implements `Tensors`. Tied weights appear once."""

    revision = None
    folder = None

    def __init__(self, model: nn.Module) -> None:
        self.label = f"the {type(model).__name__} in memory"
        self._model = model
        self._parameters = dict(model.named_parameters())
        self._owner: dict[str, str] = {}
        self._shapes: dict[str, torch.Size] = {}
        for name, parameter in self._parameters.items():
            meta = torch.empty(parameter.shape, device="meta")
            for piece, tensor in checkpoint_pieces(model, name, meta).items():
                self._owner[piece], self._shapes[piece] = name, tensor.shape
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    def keys(self) -> list[str]:
        """Return the checkpoint names, sorted."""
        return sorted(self._owner)

    def shape(self, name: str) -> torch.Size:
        """Return a tensor's shape on disk."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype the parameter is held in."""
        return self._parameters[self._owner[name]].dtype

    def __getitem__(self, name: str) -> Tensor:
        owner, last = self._owner[name], self._last
        if last[0] != owner:  # the pieces of one parameter are asked for one after another
            values = self._parameters[owner].detach().cpu()
            last = self._last = owner, checkpoint_pieces(self._model, owner, values)
        return last[1][name]

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        """Return the coordinates start…stop of a tensor, row-major: (stop - start,) on the CPU."""
        return self[name].reshape(-1)[start:stop]
