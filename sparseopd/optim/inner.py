"""The optimizer that steps on the k-vectors: any class of torch's or bitsandbytes'."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseopd.errors import OptimizerError
from sparseopd.optim.build import sharded
from sparseopd.optim.compact import CompactParameter
from sparseopd.optim.groups import grouped


def build_inner(
    kind: Callable[..., torch.optim.Optimizer],
    model: nn.Module,
    compacts: Mapping[str, CompactParameter],
    groups: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """Build the optimizer of the k-vectors, in the groups asked for.

    Raises `OptimizerError` for a class that cannot train vectors, or settings it does not take.
    """
    called = getattr(kind, "__name__", str(kind))
    values = {name: compact.values for name, compact in compacts.items()}
    parameter_groups = grouped(model, values, groups)
    try:
        inner = kind(parameter_groups, **settings)
    except (TypeError, ValueError) as error:
        raise OptimizerError(f"{called} cannot be built over k-vectors: {error}") from error
    closure = inspect.signature(inner.step).parameters.get("closure")
    if closure is None or closure.default is inspect.Parameter.empty:
        raise OptimizerError(
            f"{called} evaluates the loss itself (a closure), which a masked optimizer cannot offer: "
            "use a first-order one such as AdamW or SGD"
        )
    if isinstance(inner, torch.optim.SparseAdam):
        raise OptimizerError("SparseAdam wants sparse gradients, and k-vectors are dense: use Adam")
    if getattr(getattr(inner, "args", None), "optim_bits", 32) == 8 and sharded(
        [*compacts.values()]
    ):
        raise OptimizerError(
            f"the 8-bit state of {called} has scales for blocks of coordinates, which cannot be saved from "
            "shards: use a 32-bit optimizer with FSDP2"
        )
    unknown = {key for group in groups for key in group} - {"match", *inner.defaults}
    if unknown:
        raise OptimizerError(
            f"groups set {sorted(unknown)[0]}, which {called} does not have: it has "
            f"{', '.join(sorted(inner.defaults))}"
        )
    return inner


def bytes_held(
    inner: torch.optim.Optimizer, compacts: Sequence[CompactParameter]
) -> dict[str, int]:
    """Return what is held for the k coordinates, in bytes: `masters`, `index` and `state`."""
    tensors = [t for own in inner.state.values() for t in own.values() if isinstance(t, Tensor)]
    # bitsandbytes' code books are one tensor that every state refers to.
    unique = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
    return {
        "masters": sum(compact.values.nbytes for compact in compacts),
        "index": sum(t.nbytes for c in compacts for t in (c.index, c.row_starts) if t is not None),
        "state": sum(unique.values()),
    }
