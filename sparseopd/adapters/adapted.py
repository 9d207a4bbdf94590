"""Adapted: the k values that one adapter has for one weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.errors import AdapterError
from sparseopd.overlays.applied import new_values
from sparseopd.overlays.overlay import Overlay
from sparseopd.overlays.placed import Placed
from sparseopd.overlays.versions import version


class Adapted(nn.Module):
    """What one adapter has for a weight."""

    def __init__(self, placed: Placed, values: Tensor, masters: Tensor | None = None) -> None:
        """Args: `masters`, the values in float32, on the CPU, where they are known and `values` narrower."""
        super().__init__()
        self.placed, self.masters = placed, masters
        self.overlay = Overlay(placed.places, values)
        # Past PEFT's low_cpu_mem_usage, which would put a new parameter on the meta device.
        self._parameters["k"] = nn.Parameter(values, requires_grad=False)

    @property
    def values(self) -> nn.Parameter:
        """(k,): float32 or wider where it is trained, else in the weight's dtype."""
        values = self._parameters["k"]
        assert values is not None
        return values

    def require(self, requires_grad: bool) -> None:
        """Let the values be trained, from float32 ones, or not."""
        wide = at_least_float32(self.values.dtype)
        if requires_grad and self.values.dtype != wide:
            self._parameters["k"] = nn.Parameter(self.exact.to(wide))
            self.masters = None
        self.values.requires_grad_(requires_grad)

    @property
    def exact(self) -> Tensor:
        """The values as precisely as they are known, (k,), beside the weight."""
        values, masters = self.values.detach(), self.masters
        if masters is not None:
            masters = masters.to(values.device)
            if torch.equal(masters.to(values.dtype).view(torch.uint8), values.view(torch.uint8)):
                return masters  # unless someone has set other values since
        return values

    def take_place_of(self, other: Adapted) -> None:
        """Keep the other's parameter, which an optimizer may hold, where it has the same coordinates."""
        same = other.placed.places.same(self.placed.places)
        if same and other.values.dtype == self.values.dtype:
            other.values.data = self.values.data
            self._parameters["k"] = other.values

    @property
    def is_written(self) -> bool:
        """Whether the weight has been given the values as they are now."""
        same = self.overlay.values.data_ptr() == self.values.data_ptr()
        return same and self.overlay.written == version(self.values)

    def current(self) -> Overlay:
        """Return the overlay, with the values as they are now."""
        self.overlay.values = self.values.detach()
        return self.overlay


def adapted_from(
    adapter: SparseAdapter, placed: Placed, weight: nn.Parameter, *, trainable: bool
) -> Adapted:
    """Return what a saved adapter has for a weight: float32 if it is trained, else as the weight is."""
    wide = at_least_float32(weight.dtype)
    if trainable or weight.dtype == wide:
        dtype = wide if trainable else weight.dtype
        return Adapted(placed, new_values(placed, adapter, weight, dtype).clone())
    values = new_values(placed, adapter, weight).clone()
    if not adapter.has_masters:
        return Adapted(placed, values)
    return Adapted(placed, values, new_values(placed, adapter, weight, torch.float32).cpu())


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which values are trained."""
    return torch.promote_types(dtype, torch.float32)


def check_name(adapter: str) -> None:
    """Raise `AdapterError` for a name that torch cannot give to a module."""
    try:
        nn.ModuleDict({adapter: nn.Identity()})
    except (KeyError, TypeError) as error:
        raise AdapterError(
            f"an adapter cannot be called {adapter!r} ({error.args[0]}): give another name"
        ) from error
