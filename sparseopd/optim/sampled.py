"""Weight gradients computed at the masked coordinates alone, in place of the dense product.

The gradient of a linear layer's weight is dYᵀX over all tokens, a third of the work of a training step,
of which a mask needs a share. On the CPU `torch.sparse.sampled_addmm` computes just those coordinates,
each a dot product over the tokens, so the dense gradient is never formed. The values differ from the
dense product's by rounding only. It pays up to about an eighth of the coordinates
(benchmarks/train_step.py); a denser layer keeps its dense product.
"""

from __future__ import annotations

import warnings
from collections import Counter
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
NOTHING_TO_SAMPLE = (
    f"sampled gradients need linear layers on the CPU of which the mask has at most {100 * DENSEST:g} %, "
    "and there is none: leave them off"
)
_TOKENS = 256
"""Tokens multiplied at a time, so that a layer's inputs and gradients stay in the cores' caches."""


def samplable(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers whose gradients can be sampled, however dense their mask is.

    Subclasses and modules with a forward of their own may do more than multiply; a weight that two
    modules share gets dense gradients from the other; and only the CPU's product is sampled.
    """
    users = Counter(
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    )
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in module.__dict__
        and users[id(module.weight)] == 1
        and module.weight.device.type == "cpu"
    ]


def sample_gradients(model: nn.Module, compacts: Sequence[CompactParameter]) -> Callable[[], None]:
    """Let the linear layers under a sparse enough mask compute their masked gradients only.

    Returns the function that undoes it. Raises `OptimizerError` if there is no such layer.
    """
    sparse = {
        id(compact.weight): compact
        for compact in compacts
        if is_sparse_enough(compact.values.numel(), compact.weight.numel())
    }
    forwards = [
        (module, _SampledForward(module, sparse[id(module.weight)]))
        for module in samplable(model)
        if id(module.weight) in sparse
    ]
    if not forwards:
        raise OptimizerError(NOTHING_TO_SAMPLE)
    for module, forward in forwards:
        module.__dict__["forward"] = forward

    def undo() -> None:
        for module, forward in forwards:
            if module.__dict__.get("forward") is forward:  # others may have put theirs over it
                del module.__dict__["forward"]

    return undo


def is_sparse_enough(k: int, numel: int) -> bool:
    """Whether sampling k of a layer's coordinates is faster than the dense product."""
    return 0 < k <= DENSEST * numel


def sampled_product(
    pattern: Tensor, grad: Float[Tensor, "T m"], inputs: Float[Tensor, "T n"]
) -> Float[Tensor, "k"]:
    """Return gradᵀ·inputs at the k coordinates of `pattern`, a CSR tensor of (m, n), in fp32."""
    for start in range(0, len(grad), _TOKENS):
        part = slice(start, start + _TOKENS)
        left, right = grad[part].float().t(), inputs[part].float()
        pattern = torch.sparse.sampled_addmm(pattern, left, right, beta=float(start > 0))
    return pattern.values()


class _SampledForward:
    """The forward of one linear layer, in whose graph the k-vector stands for the weight."""

    def __init__(self, module: nn.Linear, compact: CompactParameter) -> None:
        self._module, self._compact = module, compact
        rows, columns = module.weight.shape
        counts = torch.bincount(
            torch.div(_index(compact), columns, rounding_mode="floor"), minlength=rows
        )
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._starts = compact.row_starts = starts.to(_index(compact).dtype)
        with warnings.catch_warnings():  # torch warns once that CSR is young
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.pattern()

    @torch.compiler.disable
    def __call__(self, inputs: Tensor) -> Tensor:
        module, compact = self._module, self._compact
        # Other weights may be lent to the module for a call (torch.func.functional_call).
        if not torch.is_grad_enabled() or module.weight is not compact.weight:
            return functional.linear(inputs, module.weight, module.bias)
        weight = module.weight.detach()
        return _Linear.apply(inputs, weight, module.bias, compact.values, self.pattern)

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

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (nn.Linear.forward, self._module)  # a copied module is a plain one


class _Linear(torch.autograd.Function):
    """`functional.linear` as a function of inputs, bias and the k values inside the weight.

    The weight holds the values already, so they take part in backward alone.
    """

    @staticmethod
    def forward(
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        values: Tensor,
        pattern: Callable[[], Tensor],
    ) -> Tensor:
        return functional.linear(inputs, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.pattern = inputs[4]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        (grad,) = grads
        to_inputs = to_bias = to_values = None
        if ctx.needs_input_grad[0]:
            # Autocast may have multiplied in another dtype than the inputs'.
            to_inputs = (grad @ weight.to(grad.dtype)).to(inputs.dtype)
        grad, inputs = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, inputs))
        if ctx.needs_input_grad[2]:
            to_bias = grad.sum(0)
        if ctx.needs_input_grad[3]:
            to_values = sampled_product(ctx.pattern(), grad, inputs)
        return to_inputs, None, to_bias, to_values, None


def _index(compact: CompactParameter) -> Tensor:
    assert compact.index is not None  # such a layer is not chosen
    return compact.index
