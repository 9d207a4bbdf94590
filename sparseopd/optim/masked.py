"""MaskedOptimizer: any torch optimizer over k-vectors, everything off the mask left as it is.

For every masked parameter one compact fp32 vector of its k values is the real parameter of the inner
optimizer. A hook gathers each dense gradient onto it as soon as it is accumulated and frees the dense
one, so no full gradient of the model ever exists. `step` runs on the k-vectors and writes the values
back in the weight's dtype. Decay, momentum and clipping cannot leak: nothing else is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparseopd.errors import OptimizerError, TrainingError
from sparseopd.masks.mask import Mask
from sparseopd.optim.compact import CompactParameter
from sparseopd.pairs.parameters import checkpoint_pieces, gather_positions


class MaskedOptimizer(torch.optim.Optimizer):
    """Drop-in replacement for a torch optimizer that trains only the coordinates of a mask.

        optimizer = MaskedOptimizer(model, mask, torch.optim.AdamW, lr=1e-4, weight_decay=0.1)
        loss.backward()                    # dense gradients are gathered and freed as they arrive
        optimizer.clip_grad_norm_(1.0)     # the norm over the k-vector
        optimizer.step()                   # also consumes the gradients, like zero_grad()

    Parameters without a masked coordinate stop requiring gradients; `close` undoes that and removes
    the hooks. `param_groups` are the inner optimizer's, so learning-rate schedulers work as ever.
    """

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        max_grad_norm: float | None = None,
        **settings: Any,
    ) -> None:
        """Build the k-vectors from the model's weights.

        Args:
            model: on its final device; its weights may be fp32, bf16 or fp16.
            mask: keyed by checkpoint names; every name must belong to a parameter of the model.
            optimizer: a torch optimizer class, called with the k-vectors and `settings`.
            max_grad_norm: clip inside every `step`, for trainers that only clip dense gradients.

        Raises `MaskMismatchError` for a mask of another model, `OptimizerError` for an empty mask or a
        weight that cannot be trained in place.
        """
        self._mask_digest = mask.digest()
        self.max_grad_norm = max_grad_norm
        self.grad_norm: Tensor | None = None  # over the k-vector, before clipping, of the last step
        self._required = {name: weight.requires_grad for name, weight in model.named_parameters()}
        self._parameters = dict(model.named_parameters())
        self._compact = _compact_parameters(model, mask)
        self._hooks = [
            compact.weight.register_post_accumulate_grad_hook(
                lambda _, owner=compact: owner.gather()
            )
            for compact in self._compact.values()
        ]
        self.inner = optimizer([compact.values for compact in self._compact.values()], **settings)
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self.param_groups = self.inner.param_groups  # the same list: schedulers write to both
        self.state = self.inner.state

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the k-vectors, each (k_i,) in fp32, for `torch.nn.utils.clip_grad_norm_`."""
        return (compact.values for compact in self._compact.values())

    def named_values(self) -> dict[str, Tensor]:
        """Return the fp32 masters by parameter name, each (k_i,), ordered by flat position."""
        return {name: compact.values.detach() for name, compact in self._compact.items()}

    def numel(self) -> int:
        """Return k, the number of trained coordinates."""
        return sum(compact.values.numel() for compact in self._compact.values())

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale the gathered gradients to at most `max_norm`; return their norm before that.

        The norm is over the k masked coordinates, which is smaller than the full gradient's: the
        same `max_norm` clips a masked run less often than a full one.
        """
        return nn.utils.clip_grad_norm_(list(self.parameters()), max_norm)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the k-vectors, write them back and drop the gradients.

        Raises `TrainingError` naming the parameter if a gradient is not finite, before any weight
        has changed; `OptimizerError` if given a closure.
        """
        if closure is not None:
            raise OptimizerError(
                "MaskedOptimizer takes no closure: call backward() first, then step()"
            )
        self._check_finite()
        if self.max_grad_norm is not None:
            self.grad_norm = self.clip_grad_norm_(self.max_grad_norm)
        self.inner.step()
        for compact in self._compact.values():
            compact.write_back()
        self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gathered gradients and any dense ones left on masked parameters."""
        self.inner.zero_grad(set_to_none)
        for compact in self._compact.values():
            compact.weight.grad = None

    def refresh(self) -> None:
        """Take the k values anew from the weights, after `load_state_dict` on the model."""
        for compact in self._compact.values():
            compact.refresh()

    def close(self) -> None:
        """Remove the hooks and let parameters require gradients as they did before."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for name, weight in self._parameters.items():
            weight.requires_grad_(self._required[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state, the fp32 masters by name and the mask's digest."""
        return {
            "inner": self.inner.state_dict(),
            "masters": self.named_values(),
            "mask": self._mask_digest,
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises `OptimizerError` if it is another mask's."""
        if state_dict.get("mask") != self._mask_digest:
            raise OptimizerError(
                "this optimizer state belongs to another mask: resume with the mask it was saved under"
            )
        self.inner.load_state_dict(state_dict["inner"])
        for name, master in state_dict["masters"].items():
            self._compact[name].values.copy_(master)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def _check_finite(self) -> None:
        # One value a tensor, moved together: a sum is finite only if all it adds up is.
        sums = [c.values.grad.sum() for c in self._compact.values() if c.values.grad is not None]
        if not sums or bool(torch.isfinite(torch.stack(sums)).all()):
            return
        for name, compact in self._compact.items():
            grad = compact.values.grad
            if grad is not None and not torch.isfinite(grad).all():
                raise TrainingError(
                    f"the gradient of {name} is not finite: no weight was changed; lower the learning "
                    "rate, or look at the batch"
                )


def _compact_parameters(model: nn.Module, mask: Mask) -> dict[str, CompactParameter]:
    """Build the k-vectors, and switch gradients off where the mask is empty."""
    parameters = dict(model.named_parameters())
    shapes = {
        piece: tensor.shape
        for name, weight in parameters.items()
        for piece, tensor in checkpoint_pieces(
            model, name, torch.empty(weight.shape, device="meta")
        ).items()
    }
    mask.verify_shapes(shapes, f"the {type(model).__name__}")
    if not mask.count():
        raise OptimizerError("the mask is empty: nothing would be trained")
    compact = {}
    for name, weight in parameters.items():
        chosen = gather_positions(
            model,
            name,
            weight.shape,
            lambda piece: mask[piece] if piece in mask and mask.count(piece) else None,
        )
        weight.requires_grad_(bool(chosen.any()))
        if weight.requires_grad:
            compact[name] = CompactParameter(name, weight, chosen)
    return compact
