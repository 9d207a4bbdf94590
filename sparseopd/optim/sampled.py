"""Weight gradients computed at the masked coordinates alone, in place of the dense product.

The gradient of a linear layer's weight is dYᵀX over all tokens, a third of the work of a training step,
of which a mask needs a share. On the CPU `torch.sparse.sampled_addmm` computes just those coordinates,
each a dot product over the tokens, so the dense gradient is never formed. The values differ from the
dense product's by rounding only. It pays up to about an eighth of the coordinates
(benchmarks/train_step.py); a denser layer keeps its dense product.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparseopd.errors import OptimizerError
from sparseopd.optim.compact import CompactParameter

DENSEST = 0.125
"""Share of a layer's coordinates above which the dense product is faster."""
_TOKENS = 256
"""Tokens multiplied at a time, so that a layer's inputs and gradients stay in the cores' caches."""


def sample_gradients(model: nn.Module, compacts: Sequence[CompactParameter]) -> Callable[[], None]:
    """Let the linear layers under a sparse enough mask compute their masked gradients only.

    Returns the function that undoes it. Raises `OptimizerError` if there is no such layer on the CPU.
    """
    by_weight = {id(compact.weight): compact for compact in compacts}
    users = [
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    ]
    chosen = [
        (module, by_weight[id(module.weight)])
        for module in model.modules()
        # Subclasses and modules with a forward of their own may do more than multiply; a weight that
        # two modules share gets dense gradients from the other.
        if type(module) is nn.Linear
        and "forward" not in module.__dict__
        and id(module.weight) in by_weight
        and users.count(id(module.weight)) == 1
    ]
    chosen = [(module, compact) for module, compact in chosen if _worthwhile(compact)]
    if not chosen:
        raise OptimizerError(
            f"sampled_gradients needs linear layers on the CPU of which the mask has at most "
            f"{100 * DENSEST:g} %, and there is none: leave it off"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        for module, compact in chosen:
            module.__dict__["forward"] = _SampledForward(module, compact)

    def undo() -> None:
        for module, _ in chosen:
            module.__dict__.pop("forward", None)

    return undo


def sampled_product(
    pattern: Tensor, grad: Float[Tensor, "T m"], inputs: Float[Tensor, "T n"]
) -> Float[Tensor, "k"]:
    """Return gradᵀ·inputs at the k coordinates of `pattern`, a CSR tensor of (m, n), in fp32."""
    for start in range(0, len(grad), _TOKENS):
        part = slice(start, start + _TOKENS)
        left, right = grad[part].float().t(), inputs[part].float()
        pattern = torch.sparse.sampled_addmm(pattern, left, right, beta=float(start > 0))
    return pattern.values()


def _worthwhile(compact: CompactParameter) -> bool:
    index, weight = compact.index, compact.weight
    return (
        index is not None
        and weight.device.type == "cpu"
        and 0 < len(index) <= DENSEST * weight.numel()
    )


class _SampledForward:
    """The forward of one linear layer, whose backward leaves the k-vector's gradient."""

    def __init__(self, module: nn.Linear, compact: CompactParameter) -> None:
        self._module, self._compact = module, compact
        rows, columns = module.weight.shape
        counts = torch.bincount(
            torch.div(_index(compact), columns, rounding_mode="floor"), minlength=rows
        )
        self._starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(_index(compact).dtype)
        self.pattern()  # torch warns once that CSR is young, here rather than in training

    @torch.compiler.disable
    def __call__(self, inputs: Tensor) -> Tensor:
        module = self._module
        if not torch.is_grad_enabled():
            return functional.linear(inputs, module.weight, module.bias)
        return _Linear.apply(inputs, module.weight, module.bias, self)

    def pattern(self) -> Tensor:
        """Return the mask as a CSR tensor (m, n) of zeros, fp32."""
        index = _index(self._compact)
        # Made anew each time: kept, the columns would double the index.
        columns = torch.remainder(index, self._module.in_features)
        return torch.sparse_csr_tensor(
            self._starts,
            columns,
            torch.zeros(len(index)),
            self._module.weight.shape,
            check_invariants=False,
        )

    def accumulate(self, grad: Tensor, inputs: Tensor) -> None:
        """Add the masked gradient of a batch to the k-vector's."""
        grad, inputs = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, inputs))
        self._compact.accumulate(sampled_product(self.pattern(), grad, inputs))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (nn.Linear.forward, self._module)  # a copied module is a plain one


class _Linear(torch.autograd.Function):
    """`functional.linear`, except that the weight's gradient goes to its k-vector."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, owner: Any
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.owner = owner
        return functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        (grad,) = grads
        to_inputs = to_bias = None
        if ctx.needs_input_grad[
            0
        ]:  # autocast may have multiplied in another dtype than the inputs'
            to_inputs = (grad @ weight.to(grad.dtype)).to(inputs.dtype)
        if ctx.needs_input_grad[1]:
            ctx.owner.accumulate(grad, inputs)
        if ctx.needs_input_grad[2]:
            to_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
        return to_inputs, None, to_bias, None


def _index(compact: CompactParameter) -> Tensor:
    assert compact.index is not None  # such a layer is not chosen
    return compact.index
