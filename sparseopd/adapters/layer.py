"""SparseLayer: the adapters of one weight, as PEFT knows a layer's adapters."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from sparseopd.adapters.adapted import Adapted
from sparseopd.adapters.training import Gathered, see_plainly, see_through
from sparseopd.masks.places import Places
from sparseopd.optim.build import ADAPTED
from sparseopd.overlays.overlay import Stack

_trained: weakref.WeakValueDictionary[int, SparseLayer] = weakref.WeakValueDictionary()
"""The layer of each k-vector that may be trained, by identity."""


@dataclass(frozen=True)
class Shown:
    """Which adapters a layer has on its weight, and in what way."""

    active: tuple[str, ...] = ()
    disabled: bool = False
    unmerged: bool = False
    """After `unmerge` the base's bits are back until the model next runs."""
    merged: tuple[str, ...] = ()
    trained: frozenset[str] = frozenset()
    """Adapters whose values require a gradient."""


class SparseLayer(nn.Module, BaseTunerLayer):
    """The k values that each adapter has for one weight; those of the active ones are on the weight.

    It is a child of the module that owns the weight, which otherwise stays what it is: nothing wraps it,
    and its forward is its own. A weight that several modules share has one layer.
    """

    adapter_layer_names = ("adapters",)

    def __init__(self, name: str, holders: Sequence[tuple[nn.Module, str]]) -> None:
        """Args: `name`, the parameter's; `holders`, every module and attribute that has it."""
        super().__init__()
        self.name = name
        self.holders = tuple(holders)
        self.adapters = nn.ModuleDict()
        self.stack = Stack()
        self.merged_adapters: list[str] = []
        self._active_adapter: list[str] = []
        self._unmerged = False
        self._seen: tuple[Tensor, Tensor, int] | None = None

    @property
    def weight(self) -> nn.Parameter:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The weight itself."""
        module, attribute = self.holders[0]
        weight = module._parameters[attribute]
        assert weight is not None
        return weight

    def adapted(self, adapter: str) -> Adapted | None:
        """Return what an adapter has for the weight, None where that is nothing."""
        if adapter not in self.adapters:
            return None
        found = self.adapters[adapter]
        assert isinstance(found, Adapted)
        return found

    def put(self, adapter: str, adapted: Adapted | None) -> None:
        """Give an adapter something else for the weight, or nothing; `show` then puts it there."""
        held = self.adapted(adapter)
        if held is not None and held.overlay in self.stack.applied:
            self.stack.switch(self.weight, [])
        if adapted is not None:
            for other in self.adapters:
                adapted.overlay.share(self._shared(other, adapted.overlay.places))
            self.adapters[adapter] = adapted
        elif held is not None:
            del self.adapters[adapter]

    def shown(self) -> Shown:
        """Return what `show` was last told."""
        trained = (name for name in self.adapters if self._values(name).requires_grad)
        return Shown(
            tuple(self.active_adapters),
            self._disable_adapters,
            self._unmerged,
            tuple(self.merged_adapters),
            frozenset(trained),
        )

    def show(self, shown: Shown) -> None:
        """Put exactly these adapters on the weight, and base bits wherever they have none."""
        active = [*dict.fromkeys(reversed(shown.active))][::-1]  # the last time a name comes counts
        self._active_adapter, self._disable_adapters = active, shown.disabled
        self._unmerged, self.merged_adapters = shown.unmerged, [*dict.fromkeys(shown.merged)]
        for name in self.adapters:
            adapted = self.adapted(name)
            assert adapted is not None
            adapted.require(name in shown.trained)
        hidden = shown.disabled or shown.unmerged
        wanted = [] if hidden else [one for name in active if (one := self.adapted(name))]
        self.stack.switch(self.weight, [one.current() for one in wanted])
        self._be_seen()

    def seen(self) -> Tensor:
        """Return the weight, or, where a gradient may be asked for, one that gathers it."""
        weight, trained = self.weight, self._trained()
        if trained is None:
            return weight
        if not trained.is_written:
            self.write()
        if not torch.is_grad_enabled():
            return weight
        held = self._seen
        if held is None or held[1] is not trained.values or held[2] != weight.data_ptr():
            seen = Gathered.apply(trained.values, weight, trained.overlay, self.name)
            assert isinstance(seen, Tensor)
            held = self._seen = seen, trained.values, weight.data_ptr()
            _trained[id(trained.values)] = self
        return held[0]

    def write(self) -> None:
        """Write the values that are trained to the weight, after a step has changed them."""
        trained = self._trained()
        if trained is not None and self.stack.applied:
            trained.current()
            self.stack.rewrite(self.weight)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Put these adapters on the weight; a single one is trainable unless in inference mode."""
        names = (adapter_names,) if isinstance(adapter_names, str) else tuple(adapter_names)
        trained = frozenset(names) if len(names) == 1 and not inference_mode else frozenset()
        self.show(Shown(names, self._disable_adapters, trained=trained))

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """Let adapters be trained, from float32 values, or not."""
        names = {adapter_names} if isinstance(adapter_names, str) else {*adapter_names}
        shown = self.shown()
        trained = shown.trained | names if requires_grad else shown.trained - names
        self.show(replace(shown, trained=trained))

    def enable_adapters(self, enabled: bool) -> None:
        """Put the active adapters on the weight again, or the base's bits for a while."""
        self.show(replace(self.shown(), disabled=not enabled))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Note that the values are in the weight, where they are anyway. Raises `ValueError` on NaN."""
        names = tuple(self.active_adapters if adapter_names is None else adapter_names)
        found = [self._values(name) for name in names if name in self.adapters]
        if safe_merge and not all(bool(values.isfinite().all()) for values in found):
            raise ValueError(f"NaNs detected in the values of {self.name}: the adapter is broken")
        self.show(replace(self.shown(), active=names, unmerged=False, merged=names))

    def unmerge(self) -> None:
        """Put the base's bits back, until the model next runs."""
        self.show(replace(self.shown(), unmerged=True, merged=()))

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter, and put back what it had replaced."""
        shown = self.shown()
        remaining = tuple(name for name in shown.active if name != adapter_name)
        self.show(replace(shown, active=remaining))
        if adapter_name in self.adapters:
            del self.adapters[adapter_name]

    def leave(self) -> None:
        """Leave the weight as it is, and the modules as they were."""
        for module, attribute in self.holders:
            see_plainly(module, attribute)
        module, attribute = self.holders[0]
        delattr(module, child_name(attribute))

    def _be_seen(self) -> None:
        """Let the modules see the weight through this layer while there is something to train."""
        trained, self._seen = self._trained(), None
        for module, attribute in self.holders:
            if trained is None:
                see_plainly(module, attribute)
            else:
                see_through(module, attribute, self)
        if trained is not None:
            _trained[id(trained.values)] = self

    def _trained(self) -> Adapted | None:
        """What is on the weight and trained, if there is anything."""
        if self._disable_adapters or self._unmerged or len(self.active_adapters) != 1:
            return None
        adapted = self.adapted(self.active_adapters[0])
        return adapted if adapted is not None and adapted.values.requires_grad else None

    def _shared(self, adapter: str, places: Places) -> Places:
        """The places that an adapter holds, if they are the same."""
        adapted = self.adapted(adapter)
        same = adapted is not None and adapted.overlay.places.same(places)
        return adapted.overlay.places if adapted is not None and same else places

    def _values(self, adapter: str) -> nn.Parameter:
        adapted = self.adapted(adapter)
        assert adapted is not None
        return adapted.values

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None}  # a copy sees its own weight


def child_name(attribute: str) -> str:
    """Return what the layer of a module's parameter is called among the module's children."""
    return f"{ADAPTED}{attribute}"


def key_of(adapter: str) -> str:
    """Return where in a layer's state the values of an adapter are."""
    return f"adapters.{adapter}.k"


def _after_step(optimizer: torch.optim.Optimizer, _: Any, __: Any) -> None:
    """Write what a step has trained; also for optimizers that change values behind torch's back."""
    stepped = []
    for group in optimizer.param_groups:
        for values in group["params"]:
            layer = _trained.get(id(values))
            trained = None if layer is None else layer._trained()
            if layer is not None and trained is not None and trained.values is values:
                trained.overlay.written = None  # whatever breaks off from here, `seen` will know
                stepped.append(layer)
    for layer in stepped:
        layer.write()


register_optimizer_step_post_hook(_after_step)
