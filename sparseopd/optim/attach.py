"""What a masked optimizer hangs on a model while it lives, and takes off again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

from torch import nn

from sparseopd.errors import OptimizerError
from sparseopd.optim.compact import CompactParameter

_attached: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()


def attach(
    model: nn.Module,
    compacts: Sequence[CompactParameter],
    *,
    measure: bool,
    after_gather: Callable[[], None] | None,
) -> Callable[[], None]:
    """Gather gradients as they arrive, and stop computing those that no coordinate needs.

    `model.zero_grad()`, which `Trainer` calls in place of the optimizer's, then drops the gathered
    gradients too. Returns the function that undoes all this. Raises `OptimizerError` if another
    masked optimizer is attached to the model.
    """
    if model in _attached:
        raise OptimizerError(
            "this model has a MaskedOptimizer already: call its close() before building another"
        )
    masked = {id(compact.weight) for compact in compacts}
    frozen = [w for w in model.parameters() if w.requires_grad and id(w) not in masked]
    for weight in frozen:
        weight.requires_grad_(False)

    def gather_into(compact: CompactParameter) -> Callable[[Any], None]:
        def hook(_: Any) -> None:
            compact.gather(measure=measure)
            if after_gather is not None:
                after_gather()

        return hook

    hooks = [c.weight.register_post_accumulate_grad_hook(gather_into(c)) for c in compacts]
    model.zero_grad = _ZeroGrad(model, compacts)
    _attached[model] = True
    held = weakref.ref(model)

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        for weight in frozen:
            weight.requires_grad_(True)
        model = held()
        if model is not None:
            model.__dict__.pop("zero_grad", None)
            _attached.pop(model, None)

    return undo


class _ZeroGrad:
    """`model.zero_grad` that drops the gathered gradients as well; a copied model has its own again."""

    def __init__(self, model: nn.Module, compacts: Sequence[CompactParameter]) -> None:
        self._model, self._compacts = weakref.ref(model), compacts

    def __call__(self, set_to_none: bool = True) -> None:
        model = self._model()
        if model is not None:
            type(model).zero_grad(model, set_to_none)
        for compact in self._compacts:
            compact.drop()

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        copied = memo[id(self._model())]
        return MethodType(type(copied).zero_grad, copied)
