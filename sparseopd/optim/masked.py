"""MaskedOptimizer: any torch optimizer over k-vectors, everything off the mask left as it is.

For every masked parameter one compact fp32 vector of its k values is the real parameter of the inner
optimizer. A hook gathers each dense gradient onto it as soon as it is accumulated and frees the dense
one, so no full gradient of the model ever exists. `step` runs on the k-vectors and writes the values
back in the weight's dtype. Decay, momentum and clipping cannot leak: nothing else is written.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sparseopd.errors import OptimizerError
from sparseopd.masks.mask import Mask
from sparseopd.optim import state
from sparseopd.optim.attach import attach, refuse_attached
from sparseopd.optim.build import compact_parameters, sharded, unwrapped
from sparseopd.optim.gradients import full_norm, masked_norm, require_finite
from sparseopd.optim.inner import build_inner, bytes_held
from sparseopd.optim.replicas import Replicas, refuse_unsupported
from sparseopd.optim.sampled import sample_gradients
from sparseopd.optim.shards import summed_over_shards, world_size
from sparseopd.optim.telemetry import StepWatch, moments


class MaskedOptimizer(torch.optim.Optimizer):
    """Drop-in replacement for a torch optimizer that trains only the coordinates of a mask.

        optimizer = MaskedOptimizer(model, mask, torch.optim.AdamW, lr=1e-4, weight_decay=0.1)
        loss.backward()                    # dense gradients are gathered and freed as they arrive
        optimizer.clip_grad_norm_(1.0)     # the norm over the k-vector
        optimizer.step()                   # also consumes the gradients, like zero_grad()

    Parameters without a masked coordinate stop requiring gradients; `close`, or the end of the
    optimizer's life, undoes that and removes the hooks. `param_groups` are the inner optimizer's, so
    learning-rate schedulers and `GradScaler` work as ever. Several processes: build it from the plain
    model, before DDP wraps it, or after FSDP2's `fully_shard`.

    A batch that uses no masked tensor has nothing to learn from: its loss requires no gradient, and torch
    says so in `backward`. A wrapper put around the model later (DDP, `torch.compile`) has a `zero_grad` of its own, which does
    not reach the gathered gradients: to drop some before a step, call the optimizer's.
    """

    _step_supports_amp_scaling = True
    """`GradScaler.step` then calls `step` after an overflow as well, with `found_inf` and `grad_scale`
    set (torch's convention for fused optimizers, read from 2.13)."""

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        groups: Sequence[Mapping[str, Any]] = (),
        max_grad_norm: float | None = None,
        track_full_norm: bool = False,
        sampled_gradients: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        telemetry_every: int = 0,
        **settings: Any,
    ) -> None:
        """Build the k-vectors from the model's weights.

        Args:
            model: on its final device; its weights may be fp32, bf16 or fp16.
            mask: keyed by checkpoint names; every name must belong to a parameter of the model.
            optimizer: an optimizer class of torch or bitsandbytes, called with the k-vectors and
                `settings`.
            groups: settings for some parameters by name, `[{"match": ["*norm*"], "weight_decay": 0}]`;
                the first group that matches counts.
            max_grad_norm: clip inside every `step`, for trainers that only clip dense gradients; None
                does not.
            track_full_norm: also take the norm of the whole dense gradient, `full_grad_norm`.
            sampled_gradients: compute the gradients of linear layers at the masked coordinates alone,
                which is faster on the CPU for masks up to an eighth (`sparseopd.optim.sampled`).
            stochastic_rounding: round the values at random where a weight is bf16 or fp16, by `seed`.
            telemetry_every: steps between two measurements of `telemetry`; 0 for none.

        Raises `MaskMismatchError` for a mask of another model; `OptimizerError` for an empty mask, a
        weight that cannot be trained in place, an optimizer that cannot train vectors, or a way of
        spreading the model over processes that is not supported.
        """
        plain = unwrapped(model)
        for one in (model, plain):
            refuse_unsupported(one)
        _refuse_settings(max_grad_norm, telemetry_every, track_full_norm, sampled_gradients)
        refuse_attached(plain)
        self._digest = mask.digest()
        self._compact = compact_parameters(plain, mask)
        compacts = list(self._compact.values())
        self._sharded = sharded(compacts)
        self.inner = build_inner(optimizer, plain, self._compact, groups, settings)
        copies = world_size() > 1 and not self._sharded
        if copies and track_full_norm:
            raise OptimizerError(
                "track_full_norm needs whole gradients, which data-parallel processes never exchange: "
                "leave it off"
            )
        self._replicas = Replicas(model, compacts, self._digest) if copies else None
        self.max_grad_norm, self._noise_seed = max_grad_norm, seed if stochastic_rounding else None
        self.grad_norm: Tensor | None = None
        """Norm over the k-vector in the last step, before clipping; a scalar tensor."""
        self.full_grad_norm: Tensor | None = None
        """Norm over all coordinates of the masked parameters in the last step, where it was asked for.
        NaN if several backward passes led to the step, since no dense gradient was kept to add up."""
        self.telemetry: dict[str, float] = {}
        """The last measurement: `step`, and what `sparseopd.optim.telemetry` describes."""
        self._telemetry_every, self._steps, self._clipped = telemetry_every, 0, False
        self._start = {n: c.stored().cpu() for n, c in self._compact.items() if telemetry_every}
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self._adopt_inner()
        modules = [plain] if model is plain else [model, plain]
        undone = self._hang_on(modules, measure=track_full_norm, sampled=sampled_gradients)
        self._detach = weakref.finalize(self, undone.close)
        self._detach.atexit = False

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the k-vectors, each (k_i,) in fp32."""
        return (compact.values for compact in self._compact.values())

    def named_values(self) -> dict[str, Tensor]:
        """Return the fp32 masters by parameter name, each (k_i,), ordered by flat position."""
        return {name: compact.values.detach() for name, compact in self._compact.items()}

    def numel(self) -> int:
        """Return k, the number of trained coordinates in this process."""
        return sum(compact.values.numel() for compact in self._compact.values())

    @property
    def bytes_sent(self) -> int:
        """Bytes of gradient this process has given to data-parallel averages so far."""
        return self._replicas.bytes_sent if self._replicas is not None else 0

    def memory(self) -> dict[str, int]:
        """Return what is held for the k coordinates, in bytes: `masters`, `index` and `state`."""
        return bytes_held(self.inner, list(self._compact.values()))

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale the gathered gradients to at most `max_norm`; return their norm before that.

        The norm is over the k masked coordinates, in all processes, and is smaller than the full
        gradient's: the same `max_norm` clips a masked run less often than a full one. Gradients whose
        norm is not finite are left as they are, so that `step` can name the parameter.
        """
        norm = self._total_norm()
        if not self._clipped:  # the first to clip before a step sees the norm that counts
            self.grad_norm, self._clipped = norm, True
        if max_norm < math.inf and bool(norm.isfinite()):
            nn.utils.clip_grads_with_norm_(list(self.parameters()), max_norm, norm)
        return norm

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the k-vectors, write them back and drop the gradients.

        After an overflow that `GradScaler` has found, only the last. Raises `TrainingError` naming the
        parameter if a gradient is not finite, before any weight has changed; `OptimizerError` if given
        a closure.
        """
        if closure is not None:
            raise OptimizerError(
                "MaskedOptimizer takes no closure: call backward() first, then step()"
            )
        if not self._detach.alive:
            raise OptimizerError(
                "this MaskedOptimizer is closed and gathers no gradients: build another"
            )
        if not self._unscaled():
            return self.zero_grad()
        compacts = list(self._compact.values())
        norm = self.clip_grad_norm_(math.inf if self.max_grad_norm is None else self.max_grad_norm)
        require_finite(norm, compacts)
        self._steps += 1
        due = self._telemetry_every and self._steps % self._telemetry_every == 0
        watch = StepWatch(compacts, self._start) if due else None
        self.inner.step()
        noise = None if self._noise_seed is None else (self._steps, self._noise_seed)
        for compact in compacts:
            if compact.values.grad is not None:  # without one the values have not moved
                compact.write_back(noise=noise)
        self.full_grad_norm = full_norm(compacts, self.grad_norm, sharded=self._sharded)
        if watch is not None:
            self.telemetry = {"step": self._steps, **self._measure(watch)}
        self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gathered gradients and any dense ones left on masked parameters."""
        for compact in self._compact.values():
            compact.drop()
        self._clipped = False
        if self._replicas is not None:
            self._replicas.settled = False

    def refresh(self) -> None:
        """Take the k values anew from the weights, after someone else has written to them.

        `load_state_dict` on the model does that by itself, on a part of it not, and keeps masters whose
        weights it did not change: after small updates in bf16 they are ahead of them.
        """
        for compact in self._compact.values():
            compact.refresh()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: the mask says what is trained. Raises `OptimizerError`."""
        if hasattr(self, "_detach"):  # torch adds the first groups while it is built
            raise OptimizerError(
                "MaskedOptimizer trains what its mask covers: build it with groups=[…] instead of "
                "adding a parameter group"
            )
        super().add_param_group(param_group)

    def close(self) -> None:
        """Remove the hooks and let parameters require gradients as they did before."""
        self._detach()

    def state_dict(self) -> dict[str, Any]:
        """Return state, fp32 masters and settings by parameter name, with the mask's digest.

        Of shards every process must call it, and gets the whole (`sparseopd.optim.state`).
        """
        collected = state.collect(self.inner, self._compact, self._start, sharded=self._sharded)
        return {
            "format": state.FORMAT,
            "mask": self._digest,
            "optimizer": type(self.inner).__name__,
            "steps": self._steps,
            **collected,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, in whatever process, order or number of processes.

        The weights are not touched: load their checkpoint as well. Raises `OptimizerError` if the
        state is another mask's, or no masked optimizer's.
        """
        known = isinstance(state_dict, Mapping) and state_dict.get("format") == state.FORMAT
        if not known or "mask" not in state_dict:
            raise OptimizerError(
                "this is not the state of a MaskedOptimizer of this version: resume with the file it wrote"
            )
        if state_dict["mask"] != self._digest:
            raise OptimizerError(
                "this optimizer state belongs to another mask: resume with the mask it was saved under"
            )
        if state_dict["optimizer"] != type(self.inner).__name__:
            raise OptimizerError(
                f"this is the state of {state_dict['optimizer']}, and {type(self.inner).__name__} cannot go "
                "on from it: build the optimizer it was saved from"
            )
        state.restore(self.inner, self._compact, self._start, state_dict, sharded=self._sharded)
        self._steps = state_dict["steps"]
        self._adopt_inner()

    def __reduce__(self) -> Any:
        raise OptimizerError(
            "a MaskedOptimizer cannot be copied or pickled, since it hangs on its model: use state_dict"
        )

    def _hang_on(self, modules: list[nn.Module], *, measure: bool, sampled: bool) -> ExitStack:
        """Hang the hooks on the model. Nothing that the stack holds may hold the optimizer."""
        compacts, replicas, undone = list(self._compact.values()), self._replicas, ExitStack()
        if replicas is not None:
            undone.callback(replicas.close)
        if sampled:
            undone.callback(sample_gradients(modules[-1], compacts))
        after = replicas.in_backward if replicas is not None else None
        undone.callback(attach(modules, compacts, self, measure=measure, after_gather=after))
        return undone

    def _adopt_inner(self) -> None:
        # The same objects: schedulers write to these groups, and `load_state_dict` replaces both.
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    @torch.no_grad()
    def _unscaled(self) -> bool:
        """Take a loss scale out of the gradients; False after an overflow, which no one else drops."""
        if self._sharded and hasattr(self, "found_inf"):
            raise OptimizerError(
                "GradScaler looks for overflows in each process alone, and under FSDP2 each holds other "
                "coordinates: train in bf16, which needs no scaler"
            )
        if float(getattr(self, "found_inf", 0.0)):
            return False
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            inverse = scale.double().reciprocal().float()
            for values in self.parameters():
                if values.grad is not None:
                    values.grad.mul_(inverse.to(values.device))
        return True

    def _total_norm(self) -> Tensor:
        if self._replicas is not None:
            self._replicas.average()
        return masked_norm(list(self._compact.values()), sharded=self._sharded)

    def _measure(self, watch: StepWatch) -> dict[str, float]:
        summed = summed_over_shards if self._sharded else lambda sums: sums
        owned = [c.values for c in self._compact.values() if c.part.first_copy]
        norms = {"grad_norm": float(self.grad_norm)} if self.grad_norm is not None else {}
        if self.full_grad_norm is not None:
            norms["full_grad_norm"] = float(self.full_grad_norm)
        return {**norms, **moments(self.inner.state, owned, summed), **watch.measure(summed)}


def _refuse_settings(
    max_grad_norm: float | None, telemetry_every: int, track_full_norm: bool, sampled: bool
) -> None:
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise OptimizerError(
            f"max_grad_norm is {max_grad_norm}, which would stop or turn round training: give a positive "
            "norm, or None not to clip"
        )
    if sampled and (track_full_norm or world_size() > 1):
        raise OptimizerError(
            "sampled_gradients works in one process and leaves no full gradient to take the norm of: use "
            "it without track_full_norm and without DDP or FSDP2"
        )
    if telemetry_every < 0:
        raise OptimizerError(f"telemetry_every is {telemetry_every}: give steps, or 0 for never")
