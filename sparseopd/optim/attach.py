"""What a masked optimizer hangs on a model while it lives, and takes off again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from sparseopd.errors import OptimizerError
from sparseopd.optim.compact import CompactParameter

_trained: weakref.WeakValueDictionary[int, nn.Parameter] = weakref.WeakValueDictionary()
"""The weights whose gradients a masked optimizer takes, by identity."""


def refuse_attached(model: nn.Module) -> None:
    """Raise `OptimizerError` if a masked optimizer takes gradients of this model's weights already."""
    if any(_trained.get(id(weight)) is weight for weight in model.parameters()):
        raise OptimizerError(
            "this model has a MaskedOptimizer already: call its close() before building another"
        )


def attach(
    modules: Sequence[nn.Module],
    compacts: Sequence[CompactParameter],
    optimizer: torch.optim.Optimizer,
    *,
    measure: bool,
    after_gather: Callable[[], None] | None,
) -> Callable[[], None]:
    """Gather gradients as they arrive, and stop computing those that no coordinate needs.

    Args: `modules`, the model and, before it, what it was handed over in (`torch.compile`). Their
    `zero_grad`, which `Trainer` calls in place of the optimizer's, then drops the gathered gradients
    too, and `load_state_dict` takes the values anew. Nothing hung on them keeps the optimizer alive.

    Returns the function that undoes all this.
    """
    model = modules[-1]
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
    hooks.append(model.register_load_state_dict_post_hook(_AfterLoading(model, compacts)))
    for module in modules:
        # Past the wrapper's own __setattr__, which would hand it on to what it wraps.
        module.__dict__["zero_grad"] = _ZeroGrad(module, optimizer)
    _trained.update({id(compact.weight): compact.weight for compact in compacts})
    held = [weakref.ref(module) for module in modules]

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        for weight in frozen:
            weight.requires_grad_(True)
        for compact in compacts:
            _trained.pop(id(compact.weight), None)
        for module in (one() for one in held):
            if module is not None:
                module.__dict__.pop("zero_grad", None)

    return undo


class _ZeroGrad:
    """`zero_grad` of a module that drops the gathered gradients as well.

    A copy of the module, or a pickled one, has the plain method again.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._module, self._drop = weakref.ref(module), weakref.WeakMethod(optimizer.zero_grad)

    def __call__(self, set_to_none: bool = True) -> None:
        module, drop = self._module(), self._drop()
        if module is not None:
            type(module).zero_grad(module, set_to_none)
        if drop is not None:
            drop()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (nn.Module.zero_grad, self._module())


class _AfterLoading:
    """Takes the values anew where `model.load_state_dict` has brought other weights."""

    def __init__(self, model: nn.Module, compacts: Sequence[CompactParameter]) -> None:
        self._model, self._compacts = weakref.ref(model), compacts

    def __call__(self, module: nn.Module, _: Any) -> None:
        if module is not self._model():  # a copy of the model, which nobody trains here
            return
        present = {id(weight) for weight in module.parameters()}
        for compact in self._compacts:
            if id(compact.weight) not in present:
                raise OptimizerError(
                    f"load_state_dict(assign=True) has put another tensor in the place of {compact.name}: "
                    "load without assign, or build MaskedOptimizer afterwards"
                )
        # Masters know more than bf16 weights do. They stay only if all the weights are what they were
        # rounded to, since another checkpoint may agree with them here and there.
        if not all(compact.is_as_written() for compact in self._compacts):
            for compact in self._compacts:
                compact.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return _AfterLoading, (nn.Module(), ())
