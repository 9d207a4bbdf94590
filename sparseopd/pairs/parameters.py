"""Where a checkpoint's tensors lie inside a model's parameters.

transformers 5 renames tensors while loading (LLaVA's `language_model.model.…` becomes
`model.language_model.…`) and may merge several into one parameter (the experts of a mixture), and
undoes that while saving. Masks are keyed by the names on disk, so both directions are needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, revert_weight_conversion

from sparseopd.errors import PairError


def checkpoint_pieces(model: nn.Module, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return the checkpoint tensors that parameter `name` is saved as, given its values.

    `tensor` has the parameter's shape; the pieces have the shapes on disk. A module that is not a
    transformers model is saved under its own names.

    The one place that calls `revert_weight_conversion`, read from transformers 5.23.0, which
    `save_pretrained` itself uses (tests/pairs/test_parameters.py compares the two).
    """
    if not isinstance(model, PreTrainedModel):
        return {name: tensor}
    try:
        return revert_weight_conversion(model, {name: tensor})
    except Exception as error:
        raise PairError(
            f"the parameter {name} of {type(model).__name__} cannot be split into the tensors of its "
            f"checkpoint ({error}): exclude it, or report the architecture"
        ) from error


def gather_positions(
    model: nn.Module, name: str, shape: torch.Size, read: Callable[[str], Tensor | None]
) -> Tensor:
    """Assemble a boolean tensor of the parameter's shape from per-checkpoint-tensor booleans.

    `read(checkpoint_name)` returns the boolean tensor in the shape on disk, or None for all-False.
    """
    flags = torch.zeros(shape, dtype=torch.bool)
    piece = _saved_unchanged(model, name, shape)
    if piece is not None:
        found = read(piece)
        return flags if found is None else found.reshape(shape)
    for where in _moved_positions(model, name, shape, read).values():
        flags.view(-1)[where] = True
    return flags


def piece_positions(
    model: nn.Module, name: str, shape: torch.Size, read: Callable[[str], Tensor | None]
) -> dict[str, Tensor]:
    """Return where the chosen coordinates of each checkpoint tensor lie in the parameter `name`.

    `read` is as in `gather_positions`. A checkpoint tensor of which nothing is chosen is left out; of
    each other one the flat positions, int64 (k_piece,), in that tensor's own row-major order, so they
    need not ascend.
    """
    piece = _saved_unchanged(model, name, shape)
    if piece is None:
        return _moved_positions(model, name, shape, read)
    found = read(piece)
    if found is None:
        return {}
    where = torch.nonzero(found.reshape(-1)).view(-1)
    return {piece: where} if len(where) else {}


def _moved_positions(
    model: nn.Module, name: str, shape: torch.Size, read: Callable[[str], Tensor | None]
) -> dict[str, Tensor]:
    """`piece_positions` of a parameter that is saved as several tensors, or in another order."""
    if not shape.numel():
        return {}
    positions = torch.arange(shape.numel()).view(shape)
    moved = {}
    for piece, where in checkpoint_pieces(model, name, positions).items():
        found = read(piece)
        if found is not None and bool(found.any()):
            moved[piece] = where[found]
    return moved


def _saved_unchanged(model: nn.Module, name: str, shape: torch.Size) -> str | None:
    """The one checkpoint tensor with the same values in the same order; None if it is not so."""
    if not shape.numel() or _reorders(model):
        return None
    pieces = checkpoint_pieces(model, name, torch.empty(shape, device="meta"))
    piece, values = next(iter(pieces.items()))
    return piece if len(pieces) == 1 and values.shape == shape else None


def _reorders(model: nn.Module) -> bool:
    """Whether loading may do more than rename (merge, split, transpose) in this model.

    `_weight_conversions` is set by `from_pretrained` (transformers 5.23.0); a model made otherwise
    has none, and is then asked position by position.
    """
    if not isinstance(model, PreTrainedModel):
        return False
    conversions = getattr(model, "_weight_conversions", None)
    return conversions is None or any(isinstance(one, WeightConverter) for one in conversions)
