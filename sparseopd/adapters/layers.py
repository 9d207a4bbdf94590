"""Put layers beside the weights of a model, and take them away."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sparseopd.adapters.layer import SparseLayer, child_name
from sparseopd.errors import AdapterError
from sparseopd.optim.build import own_names


def layers_for(model: nn.Module, names: Iterable[str]) -> dict[str, SparseLayer]:
    """Return the layer of each named parameter, made where there is none yet."""
    weights, holders = own_names(model), _holders(model)
    layers = {}
    for name in names:
        held = holders[id(weights[name])]
        for module, _ in held:
            _require_attributes(name, module)
        module, attribute = held[0]
        layer = module._modules.get(child_name(attribute))
        if not isinstance(layer, SparseLayer):
            layer = SparseLayer(name, held)
            module.add_module(child_name(attribute), layer)
        layers[name] = layer
    return layers


def remove_layers(layers: Iterable[SparseLayer]) -> None:
    """Take layers out of their model, whose weights stay as they are."""
    for layer in layers:
        layer.leave()


def _require_attributes(name: str, module: nn.Module) -> None:
    """Raise `AdapterError` for a container, which would run a layer beside its weight."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise AdapterError(
            f"the weight {name} belongs to a {type(module).__name__}, where PEFT cannot train it: leave it "
            "out of the mask with --exclude, or train it with MaskedOptimizer"
        )


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every module and attribute that has a parameter, by the parameter's identity."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        if isinstance(module, SparseLayer):
            continue
        for attribute, weight in module._parameters.items():
            if weight is not None:
                found.setdefault(id(weight), []).append((module, attribute))
    return found
