"""From a model and a mask to compact parameters: names, dtypes and what cannot be trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sparseopd.errors import MaskMismatchError, OptimizerError
from sparseopd.masks.mask import Mask
from sparseopd.optim.compact import CompactParameter
from sparseopd.optim.shards import world_size
from sparseopd.pairs.parameters import checkpoint_pieces, gather_positions

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and activation checkpointing put into parameter names."""
ADAPTED = "sparseopd_"
"""Begins the name of what a sparse adapter puts beside a parameter."""
_UNQUANTIZED = (
    "load the model without quantization (bf16 weights train from fp32 masters of the k coordinates "
    "alone), or leave the tensor out of the mask with --exclude"
)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile` or `DataParallel`."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def own_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by the names they have without wrappers, each shared one once.

    The k-vectors that sparse adapters have beside the weights are not the model's own.
    """
    found = {}
    for name, weight in model.named_parameters():
        if any(part.startswith(ADAPTED) for part in name.split(".")):
            continue
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        found[name] = weight
    return found


def checkpoint_names(model: nn.Module) -> dict[str, dict[str, torch.Size]]:
    """Return, for each parameter, the checkpoint tensors it is saved as, and their shapes."""
    return {
        name: {
            piece: tensor.shape
            for piece, tensor in checkpoint_pieces(
                model, name, torch.empty(weight.shape, device="meta")
            ).items()
        }
        for name, weight in own_names(model).items()
    }


def compact_parameters(model: nn.Module, mask: Mask) -> dict[str, CompactParameter]:
    """Build the k-vectors of the parameters with a masked coordinate, in the model's order.

    Raises `MaskMismatchError` for a mask of another model; `OptimizerError` for an empty mask, or a
    weight that is quantized, frozen, on the meta device or not contiguous.
    """
    parameters = own_names(model)
    if not mask.count():
        raise OptimizerError("the mask is empty: nothing would be trained")
    for name, weight in parameters.items():
        if name in mask and mask.count(name):
            _require_plain(name, weight)
    pieces = checkpoint_names(model)
    shapes = {piece: shape for every in pieces.values() for piece, shape in every.items()}
    try:
        mask.verify_shapes(shapes, f"the {type(model).__name__}")
    except MaskMismatchError as error:
        if getattr(model, "is_quantized", False):
            raise OptimizerError(f"the model is quantized, and {error}: {_UNQUANTIZED}") from error
        raise

    def read(piece: str) -> Tensor | None:
        return mask[piece] if piece in mask and mask.count(piece) else None

    compact = {}
    for name, weight in parameters.items():
        if any(piece in mask and mask.count(piece) for piece in pieces[name]):
            if name not in mask:  # one that transformers has renamed, or put together of several
                _require_plain(name, weight)
            compact[name] = CompactParameter(
                name, weight, gather_positions(model, name, weight.shape, read)
            )
    return compact


def sharded(compacts: Sequence[CompactParameter]) -> bool:
    """Whether the weights are FSDP2 shards.

    Raises `OptimizerError` if some are and some are not, since nobody would average those.
    """
    whole = [c.name for c in compacts if not isinstance(c.weight, DTensor)]
    if 0 < len(whole) < len(compacts) and world_size() > 1:
        raise OptimizerError(
            f"some weights are sharded and {whole[0]} is not, so no one would average its gradients: "
            "leave it to fully_shard, or out of the mask"
        )
    return not whole


def _require_plain(name: str, weight: nn.Parameter) -> None:
    kind = type(weight.data)
    if kind not in (Tensor, DTensor) or weight.dtype not in (
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ):
        what = weight.dtype if kind is Tensor else f"a {kind.__name__} of {weight.dtype}"
        raise OptimizerError(
            f"the weight {name} is {what}, which cannot be trained in place: {_UNQUANTIZED}"
        )
    if weight.is_meta:
        raise OptimizerError(
            f"the weight {name} is on the meta device: load its values before building the optimizer"
        )
    if not weight.requires_grad:
        raise OptimizerError(
            f"the weight {name} is frozen (requires_grad is False) and the mask has coordinates in it: "
            "unfreeze it, or exclude it from the mask"
        )
