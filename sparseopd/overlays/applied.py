"""`apply` and `remove`: an adapter's values on a model in memory, and the base's bits back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.errors import AdapterError, AdapterMismatchError
from sparseopd.optim.build import own_names, unwrapped
from sparseopd.overlays.overlay import Overlay, Stack
from sparseopd.overlays.placed import Placed, place
from sparseopd.overlays.versions import counts

_KEPT = "_sparseopd_applied"
"""The attribute of a model that holds what is applied to it; a copy of the model has its own."""


@dataclass
class _Applied:
    """What is applied to a model."""

    stacks: dict[str, Stack] = field(default_factory=dict)
    base_state: str = ""
    """Digest of the base that all of them were made for, empty if not known or not the same."""
    state: str = ""
    """Digest of the weights as they are now, empty if not known."""
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The weights when the digests were right (`versions.counts`)."""


def apply(model: nn.Module, adapter: str | Path | SparseAdapter) -> nn.Module:
    """Write an adapter's values into a model, and return the model.

    Several may be applied: patches in their order, each to the weights the one before has made, or
    adapters of one base, of which the later wins where two have a coordinate. `remove` puts every bit
    back. Nothing is written unless everything can be.

    Raises `AdapterMismatchError` naming the tensors if the adapter belongs to other weights.
    """
    if not isinstance(adapter, SparseAdapter):
        adapter = SparseAdapter.load(adapter)
    plain = unwrapped(model)
    if hasattr(plain, "peft_config"):
        raise AdapterError(
            f"this {type(plain).__name__} has PEFT adapters: give it this one with load_adapter"
        )
    applied: _Applied = plain.__dict__.get(_KEPT) or _Applied()
    state = _verified(plain, adapter, applied)
    weights = own_names(plain)
    placed = place(plain, adapter.mask)
    overlays = {
        name: Overlay(one.places, new_values(one, adapter, weights[name]))
        for name, one in placed.items()
    }
    stacks = {name: applied.stacks.get(name) or Stack() for name in overlays}
    before = {name: [*stack.applied] for name, stack in stacks.items()}
    try:
        for name, stack in stacks.items():
            stack.switch(weights[name], [*before[name], overlays[name]])
    except BaseException:
        for name, stack in stacks.items():
            stack.switch(weights[name], before[name])
        applied.counts = counts(weights)
        raise
    is_first = not applied.stacks
    beside = is_first or applied.base_state == adapter.base_state()
    applied.base_state = adapter.base_state() if beside else ""
    applied.stacks |= stacks
    rounded = any(
        weights[name].dtype.itemsize < adapter.dtype(piece).itemsize
        for name, one in placed.items()
        for piece in one.ranks
    )
    applied.state = "" if rounded else state
    applied.counts = counts(weights)
    plain.__dict__[_KEPT] = applied
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take every applied adapter off a model, bit for bit, and return the model.

    Raises `AdapterError` if none is applied.
    """
    plain = unwrapped(model)
    applied: _Applied | None = plain.__dict__.get(_KEPT)
    if applied is None:
        raise AdapterError(
            f"no adapter is applied to this {type(plain).__name__}: nothing to remove"
        )
    weights = own_names(plain)
    for name, stack in applied.stacks.items():
        stack.switch(weights[name], [])
    del plain.__dict__[_KEPT]
    return model


def _verified(model: nn.Module, adapter: SparseAdapter, applied: _Applied) -> str:
    """Check that an adapter fits a model as it is now; return the digest of what it will be.

    Whole weights are read only where digests do not answer.
    """
    base, untouched = adapter.base_state(), applied.counts == counts(own_names(model))
    if base and base == applied.base_state:  # beside those before: no one knows the sum of them
        if not untouched:
            with _base_bits(model, applied):
                adapter.verify(model)
        return ""
    if base and base == applied.state and untouched:
        return adapter.result_state()
    try:
        adapter.verify(model)
    except AdapterMismatchError as error:
        if not applied.stacks:
            raise
        raise AdapterMismatchError(
            f"{error}; other adapters are applied to this model, so as a patch it may be out of order, or "
            "one before it may be missing",
            error.tensors,
        ) from error
    return adapter.result_state()


@contextmanager
def _base_bits(model: nn.Module, applied: _Applied) -> Iterator[None]:
    """Have the base's bits on a model for a while."""
    weights = own_names(model)
    before = {name: [*stack.applied] for name, stack in applied.stacks.items()}
    try:
        for name, stack in applied.stacks.items():
            stack.switch(weights[name], [])
        yield
    finally:
        for name, stack in applied.stacks.items():
            stack.switch(weights[name], before[name])


def new_values(
    placed: Placed, adapter: SparseAdapter, weight: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Return a parameter's k new values, on its device, in its dtype or another.

    The float32 masters are taken where that dtype has room for them.
    """
    dtype = dtype or weight.dtype

    def read(piece: str) -> Tensor:
        wider = dtype.itemsize > adapter.dtype(piece).itemsize
        masters = adapter.masters(piece) if wider else None
        return adapter.values(piece) if masters is None else masters

    return placed.join(read).to(weight.device, dtype)
