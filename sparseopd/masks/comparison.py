"""What selectors look at: the update between two models, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.pairs.tensors import Tensors


class Comparison:
    """The tensors of `base` and what changed in them in `tuned`, within a scope of names.

    `names` are the tensors whose coordinates may be chosen; `shapes` covers every tensor of the base.
    """

    def __init__(
        self, base: Tensors, tuned: Tensors | None, scope: Sequence[str] | None = None
    ) -> None:
        self.base, self.tuned = base, tuned
        self.shapes = {name: base.shape(name) for name in base.keys()}
        self.names = [name for name in self.shapes if _in_scope(name, scope)]
        if not self.names:
            raise MaskError(f"no tensor of {base.label} matches the scope {list(scope or [])}")
        if tuned is not None:
            self._check(tuned)

    @property
    def numel(self) -> int:
        """Number of coordinates in scope."""
        return sum(self.shapes[name].numel() for name in self.names)

    def magnitude(self, name: str) -> Tensor:
        """Return |Δ| of one tensor: float32 (numel,), both sides cast up before subtracting.

        Raises `MaskError` naming the tensor if the update is not finite.
        """
        if self.tuned is None:
            raise MaskError("this selector ranks the update: give a tuned model beside the base")
        update = self.tuned[name].detach().cpu().float() - self.base[name].detach().cpu().float()
        if not torch.isfinite(update).all():
            raise MaskError(f"the update of {name} is not finite: the tuned model is damaged")
        return update.abs_().reshape(-1)

    def _check(self, tuned: Tensors) -> None:
        theirs = set(tuned.keys())
        for name in self.names:
            if name not in theirs:
                raise MaskError(
                    f"{tuned.label} lacks {name}, which {self.base.label} has: not a sibling"
                )
            if tuned.shape(name) != self.shapes[name]:
                raise MaskError(
                    f"{name} is {tuple(self.shapes[name])} in {self.base.label} and "
                    f"{tuple(tuned.shape(name))} in {tuned.label}: not a sibling"
                )


def _in_scope(name: str, scope: Sequence[str] | None) -> bool:
    return scope is None or any(fnmatchcase(name, pattern) for pattern in scope)
