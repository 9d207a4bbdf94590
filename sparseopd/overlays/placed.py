"""From the coordinates of checkpoint tensors to those of a model's parameters, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sparseopd.errors import AdapterError
from sparseopd.masks.mask import Mask
from sparseopd.masks.places import Places
from sparseopd.optim.build import checkpoint_names, own_names
from sparseopd.pairs.parameters import piece_positions


@dataclass(frozen=True)
class Placed:
    """The chosen coordinates of one parameter, which its checkpoint may store as several tensors."""

    name: str
    places: Places
    ranks: dict[str, Tensor | None]
    """For each checkpoint tensor with a chosen coordinate, where its values stand among the k: int64
    (m,), or None where they are all of them, in order."""

    def join(self, read: Callable[[str], Tensor]) -> Tensor:
        """Return the k values in the parameter's order; `read` gives those of a checkpoint tensor."""
        joined: Tensor | None = None
        for piece, ranks in self.ranks.items():
            values = read(piece)
            if ranks is None:
                return values
            if joined is None:
                joined = values.new_empty(self.places.k)
            joined[ranks] = values
        assert joined is not None
        return joined

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """Return the values of each checkpoint tensor, of (k,) on the CPU in the parameter's order."""
        return {
            piece: values if ranks is None else values[ranks] for piece, ranks in self.ranks.items()
        }


def place(model: nn.Module, mask: Mask) -> dict[str, Placed]:
    """Find the parameters that a mask chooses from, in the model's order.

    The mask must have been verified. Raises `AdapterError` for a weight that cannot be written in
    place.
    """
    pieces, placed = checkpoint_names(model), {}

    def read(piece: str) -> Tensor | None:
        return mask[piece] if piece in mask and mask.count(piece) else None

    for name, weight in own_names(model).items():
        if any(piece in mask and mask.count(piece) for piece in pieces[name]):
            _require_plain(name, weight)
            positions = piece_positions(model, name, weight.shape, read)
            placed[name] = _placed(name, weight, positions)
    return placed


def _placed(name: str, weight: nn.Parameter, positions: Mapping[str, Tensor]) -> Placed:
    if len(positions) == 1:
        piece, only = next(iter(positions.items()))
        if bool((only[1:] > only[:-1]).all()):
            return Placed(name, Places.at(only, weight), {piece: None})
    order = torch.cat(list(positions.values())).sort().values
    ranks = {piece: torch.searchsorted(order, where) for piece, where in positions.items()}
    return Placed(name, Places.at(order, weight), dict(ranks))


def _require_plain(name: str, weight: nn.Parameter) -> None:
    if isinstance(weight, DTensor):
        raise AdapterError(
            f"the weight {name} is spread over processes: apply the adapter before fully_shard, or to the "
            "checkpoint with sparseopd adapter apply"
        )
    if type(weight.data) is not Tensor or not weight.is_floating_point():
        raise AdapterError(
            f"the weight {name} is {weight.dtype}, as quantized weights are, and new values cannot be "
            "written to it: load the base without quantization"
        )
    if weight.is_meta or not weight.is_contiguous():
        where = "on the meta device" if weight.is_meta else "not contiguous in memory"
        raise AdapterError(f"the weight {name} is {where}: load its values first")
