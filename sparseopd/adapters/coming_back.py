"""After `unmerge_adapter` the base's bits are there to be read; when the model runs, the adapters return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from sparseopd.adapters.layer import SparseLayer


class ComingBack:
    """Shows the active adapters again as soon as the model, or a module with an adapter, runs.

    A copy of the model has its own, which knows the copy's layers.
    """

    def __init__(self, model: nn.Module, layers: Sequence[SparseLayer]) -> None:
        self._layers = [*layers]
        modules = {model, *(module for layer in layers for module, _ in layer.holders)}
        self._hooks = [module.register_forward_pre_hook(self) for module in modules]

    def __call__(self, *_: Any) -> None:
        self.cancel()
        for layer in self._layers:
            if layer.shown().unmerged:
                layer.show(replace(layer.shown(), unmerged=False))

    def cancel(self) -> None:
        """Let the base's bits be."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
