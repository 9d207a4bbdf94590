"""SparseModel: PEFT's view of a model with sparse adapters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapters.adapted import Adapted, adapted_from, check_name
from sparseopd.adapters.changes import base_bits, change_all, put_all, shown_alone
from sparseopd.adapters.coming_back import ComingBack
from sparseopd.adapters.config import SparseConfig
from sparseopd.adapters.layer import Shown, SparseLayer, key_of
from sparseopd.adapters.layers import layers_for, remove_layers
from sparseopd.adapters.saving import adapter_tensors, hashed
from sparseopd.adapters.weighted import Conflicts, weighted_sum
from sparseopd.errors import AdapterError
from sparseopd.masks.mask import Mask
from sparseopd.optim.build import ADAPTED, own_names
from sparseopd.overlays.placed import place
from sparseopd.overlays.versions import counts


class SparseModel(BaseTuner):
    """A model whose weights hold the values of its active adapters.

    Read from PEFT 0.21.2: everything in `BaseTuner` that expects layers which wrap others is overridden.
    """

    uses_shared_state = True  # layers need this object: PEFT then refuses to inject them without it
    prefix = ADAPTED
    tuner_layer_cls = SparseLayer
    _coming_back: ComingBack | None = None
    _awaited: dict[str, RemovableHandle]
    _verified: dict[str, tuple[int, int]] | None = None
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Add an adapter whose values are the weights as they are.

        One that was saved has no mask yet; it comes with its weights. Raises `MaskMismatchError` naming
        the tensors if the mask belongs to other weights.
        """
        if "_awaited" not in self.__dict__:
            self._awaited = {}
        config = self._config(adapter_name)
        check_name(adapter_name)
        if config.mask is None and config.k is not None:
            self._await(adapter_name, True)
            return self._freeze()
        with base_bits(self._layers()):
            config.mask = hashed(config.chosen, model)
            self._verified = counts(own_names(model))
            placed = place(model, config.mask)
            weights = own_names(model)
            with torch.inference_mode(False):  # values made there could not be trained
                new = {
                    name: Adapted(one, one.places.take(weights[name].detach()).clone())
                    for name, one in placed.items()
                }
        self._freeze()
        trainable = adapter_name in self.active_adapters and not config.inference_mode
        self._add(adapter_name, new, trainable=trainable)

    def install(self, adapter_name: str, adapter: SparseAdapter) -> None:
        """Take a saved adapter's mask and values, in place of those the adapter of that name has.

        Raises `AdapterMismatchError` naming the tensors if it was made for other weights.
        """
        config = self._config(adapter_name)
        with base_bits(self._layers()):
            if not self._knows(adapter):
                adapter.verify(self.model)
                self._verified = counts(own_names(self.model))
            placed = place(self.model, adapter.mask)
        weights = own_names(self.model)
        with torch.inference_mode(False):
            new = {
                name: adapted_from(adapter, one, weights[name], trainable=not config.inference_mode)
                for name, one in placed.items()
            }
        self._add(adapter_name, new, trainable=not config.inference_mode)
        config.mask, config.k = adapter.mask, adapter.count()
        self._await(adapter_name, False)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Put one adapter's values on the weights, or several, of which the last wins where they meet.

        A single one is trainable afterwards unless in inference mode. Whatever goes wrong on the way, the
        weights are then as they were.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        for name in names:
            if name not in self.peft_config:
                raise ValueError(f"Adapter {name} not found.")
        change_all(
            self._layers(), lambda layer: layer.set_adapter(names, inference_mode=inference_mode)
        )
        self.active_adapter = adapter_name

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """Note that the weights hold the adapters' values, which they do anyway."""
        for name in adapter_names or ():
            self._config(name)
        change_all(
            self._layers(),
            lambda layer: layer.merge(safe_merge=safe_merge, adapter_names=adapter_names),
        )

    def unmerge_adapter(self) -> None:
        """Put the base's bits back; the active adapters return when the model next runs."""
        change_all(self._layers(), lambda layer: layer.unmerge())
        self._coming_back = ComingBack(self.model, self._layers())

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter; if it was the active one, the first of the others is then."""
        if adapter_name not in self.peft_config:
            raise ValueError(f"Adapter {adapter_name} does not exist")
        was_active = adapter_name in self.active_adapters
        trained = any(adapter_name in layer.shown().trained for layer in self._layers())
        for layer in self._layers():
            layer.delete_adapter(adapter_name)
        del self.peft_config[adapter_name]
        self._await(adapter_name, False)
        if was_active:
            active = [name for name in self.active_adapters if name != adapter_name]
            if not active and self.peft_config:
                active = [next(iter(self.peft_config))]
                warnings.warn(
                    f"Adapter {adapter_name} was active; now {active[0]} is.", stacklevel=2
                )
            self.set_adapter(active, inference_mode=not trained)

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str
    ) -> Conflicts:
        """Add an adapter that is a weighted sum of others; return where they contradict each other.

        Its values are base + Σ wᵢ (valuesᵢ - base) at every coordinate that one of them has. It is not
        active before `set_adapter`.
        """
        if adapter_name in self.peft_config:
            raise AdapterError(f"there is an adapter {adapter_name} already: give another name")
        check_name(adapter_name)
        if len(adapters) != len(weights) or not adapters:
            raise AdapterError(f"{len(adapters)} adapters and {len(weights)} weights: give as many")
        if len({*adapters}) < len(adapters) or not all(map(math.isfinite, weights)):
            raise AdapterError(
                f"the adapters {', '.join(adapters)} with the weights {', '.join(map(str, weights))} have "
                "no sum: give each adapter once, with a finite weight"
            )
        configs = [self._config(name) for name in adapters]
        mask = configs[0].chosen
        for config in configs[1:]:
            mask = mask | config.chosen
        with base_bits(self._layers()):
            placed = place(self.model, mask)
            summed = weighted_sum(self._layers(), placed, adapters, weights)
        new = {name: Adapted(placed[name], values) for name, values in summed.values.items()}
        self._add(adapter_name, new, trainable=False)
        self.peft_config[adapter_name] = replace(configs[0], mask=mask)
        return summed.conflicts

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Leave the adapters' values in the weights, or the base's bits, and nothing else behind."""
        if self._coming_back is not None:
            self._coming_back.cancel()
        if merge:
            self.enable_adapter_layers()
            self.merge_adapter(adapter_names, safe_merge)
        else:
            change_all(self._layers(), lambda layer: layer.show(Shown()))
        remove_layers(self._layers())
        del self.model.peft_config
        return self.model

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        change_all(self._layers(), lambda layer: layer.enable_adapters(enabled))

    def _check_merge_allowed(self) -> None:
        """Tied weights are one storage with one layer, so merging is always allowed."""

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Values are float32 where they are trained, and have the weight's dtype elsewhere."""

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("sparse adapters replace no module")

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        assert isinstance(config, SparseConfig)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, SparseLayer)}
        with shown_alone([*layers.values()], adapter_name):
            return adapter_tensors(tuner_of(model).model, config, adapter_name, layers, state_dict)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        tuner = tuner_of(model)
        try:
            tuner.install(adapter_name, SparseAdapter.from_tensors(state_dict, adapter_name))
        except BaseException:
            if tuner._config(adapter_name).mask is None:  # it has nothing, and never will
                tuner._await(adapter_name, False)
                del tuner.peft_config[adapter_name]
            raise
        return {
            f"{name}.{key_of(adapter_name)}": adapted.values.detach()
            for name, layer in model.named_modules()
            if isinstance(layer, SparseLayer) and (adapted := layer.adapted(adapter_name))
        }

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key  # an adapter's file has checkpoint names, whatever the adapter is called

    def _layers(self) -> list[SparseLayer]:
        return [module for module in self.model.modules() if isinstance(module, SparseLayer)]

    def _config(self, adapter: str) -> SparseConfig:
        config = self.peft_config.get(adapter)
        if not isinstance(config, SparseConfig):
            raise AdapterError(f"there is no sparse adapter {adapter}: load it first")
        return config

    def _knows(self, adapter: SparseAdapter) -> bool:
        """Whether another adapter has been found to belong to this base, which nobody has changed since."""
        if self._verified != counts(own_names(self.model)):
            return False
        hashes = adapter.mask.provenance.base_hashes
        masks = [config.mask for config in self.peft_config.values()]  # pyright: ignore
        return len(hashes) == len(adapter.names) and any(
            isinstance(mask, Mask) and mask.provenance.base_hashes == hashes for mask in masks
        )

    def _freeze(self) -> None:
        """Let nothing but k-vectors require a gradient."""
        for name, weight in self.model.named_parameters():
            if self.prefix not in name:
                weight.requires_grad_(False)

    def _add(self, adapter: str, new: Mapping[str, Adapted], *, trainable: bool) -> None:
        """Give the layers what an adapter has now, all of them or none, and show it if it is active."""
        before = [layer.shown() for layer in self._layers()]
        like = before[0] if before else Shown()
        others = frozenset().union(*(shown.trained for shown in before))
        trained = others | {adapter} if trainable else others - {adapter}
        shown = replace(like, active=tuple(self.active_adapters), trained=trained)
        names = [*layers_for(self.model, new)]
        put_all(self._layers(), adapter, new, shown)
        self.targeted_parameter_names = [*dict.fromkeys([*self.targeted_parameter_names, *names])]

    def _await(self, adapter: str, awaited: bool) -> None:
        """Refuse to run without the values of an adapter that has been announced and not loaded."""
        if adapter in self._awaited:
            self._awaited.pop(adapter).remove()
        if awaited:
            self._awaited[adapter] = self.model.register_forward_pre_hook(_no_values)


def _no_values(*_: Any) -> None:
    raise AdapterError(
        "an adapter has no mask and no values: load it with PeftModel.from_pretrained, or give "
        "SparseConfig(mask=…)"
    )


def tuner_of(model: nn.Module) -> SparseModel:
    """Return the tuner in a PEFT model. Raises `AdapterError` for a model without one."""
    for module in model.modules():
        if isinstance(module, SparseModel):
            return module
    raise AdapterError(
        f"this {type(model).__name__} is no PEFT model: wrap it with get_peft_model, or use sparseopd.apply"
    )
