"""How a layer trains the k-vector: it sees the weight itself, and its gradient goes to the k values.

The weight already holds the values, so nothing is composed in forward and nothing is kept for backward
beyond what the layer keeps anyway. While an adapter is trained, the attribute of the module that owns the
weight (`module.weight`) gives a tensor of the same memory whose gradient is gathered; whoever reads the
attribute is served, a loss that multiplies with the head's weight as well as the module's own forward.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparseopd.errors import AdapterError
from sparseopd.overlays.overlay import Overlay

_SEEN = "_sparseopd_seen"
"""The attribute of a module that says by which layers its weights are seen."""


class Seeing(Protocol):
    """What decides how a weight is seen."""

    def seen(self) -> Tensor: ...


class Gathered(torch.autograd.Function):
    """The weight as it is; backward gathers its dense gradient onto the k values.

    Nothing is saved, so one result serves any number of backward passes.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, overlay: Overlay, name: str) -> Tensor:
        """Args: `values`, (k,); `weight`, the tensor that holds them already."""
        ctx.overlay, ctx.name, ctx.dtype = overlay, name, values.dtype
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, dense: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """Return the gradient of the k values."""
        if dense.layout is not torch.strided:
            raise AdapterError(
                f"the gradient of {ctx.name} is sparse: build the embedding with sparse=False"
            )
        return ctx.overlay.gather(dense).to(ctx.dtype), None, None, None


def see_through(module: nn.Module, attribute: str, layer: Seeing) -> None:
    """Let `module.attribute` be what `layer` says."""
    seen = module.__dict__.setdefault(_SEEN, {})
    plain = _plain(type(module))
    seen[attribute] = layer
    module.__class__ = _seeing(plain, frozenset(seen))


def see_plainly(module: nn.Module, attribute: str) -> None:
    """Let `module.attribute` be its parameter again."""
    seen = module.__dict__.get(_SEEN, {})
    if attribute not in seen:
        return
    del seen[attribute]
    plain = _plain(type(module))
    module.__class__ = _seeing(plain, frozenset(seen)) if seen else plain
    if not seen:
        del module.__dict__[_SEEN]


def _plain(kind: type[nn.Module]) -> type[nn.Module]:
    return kind.__dict__.get("_sparseopd_plain", kind)


@cache
def _seeing(plain: type[nn.Module], attributes: frozenset[str]) -> type[nn.Module]:
    """Return a subclass whose `attributes` are looked up anew each time, as torch's parametrizations do."""

    def look(attribute: str) -> property:
        return property(lambda module: module.__dict__[_SEEN][attribute].seen())

    body = {attribute: look(attribute) for attribute in attributes}
    return type(plain.__name__, (plain,), {**body, "_sparseopd_plain": plain})
