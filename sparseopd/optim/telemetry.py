"""What an optimizer's step looks like from inside: momentum, heterogeneity, visibility.

PAPER.md §3: cos(m_t, g_t), the agreement of the momentum with the gradient of its step, and CV(√v),
the spread of the second moments over coordinates. Beside them how large the step was against the
weights, and, for weights in bf16 or fp16, how much of it can be seen in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseopd.optim.compact import CompactParameter
from sparseopd.optim.shards import Summed

_FIRST = ("exp_avg", "momentum_buffer", "state1")
_SECOND = ("exp_avg_sq", "square_avg", "variance", "state2")
"""Names of the moments in torch's optimizers and bitsandbytes'."""


def moments(
    state: Mapping[Any, Mapping[str, Any]], parameters: Iterable[nn.Parameter], summed: Summed
) -> dict[str, float]:
    """Return `cos_m_g` and `cv_sqrt_v` over all coordinates of the parameters, where they exist.

    To be called after the step, while the gradients it took are still there. `summed` adds up vectors
    of sums over the processes that hold shards.
    """
    sums = torch.zeros(6, dtype=torch.float64)
    for parameter in parameters:
        grad, own = parameter.grad, state.get(parameter, {})
        if grad is None:
            continue
        flat = grad.reshape(-1)
        first, second = _moment(own, _FIRST, 1), _moment(own, _SECOND, 2)
        if first is not None:
            first = first.reshape(-1)
            sums[:3] += _host(first.dot(flat), first.dot(first), flat.dot(flat))
        if second is not None:
            root = second.reshape(-1).sqrt().double()
            sums[3:] += _host(root.sum(), root.square().sum(), root.new_tensor(root.numel()))
    dot, mm, gg, total, squares, count = summed(sums).tolist()
    found = {}
    if mm and gg:
        found["cos_m_g"] = dot / math.sqrt(mm * gg)
    if count and total:
        mean = total / count
        found["cv_sqrt_v"] = math.sqrt(max(squares / count - mean**2, 0.0)) / mean
    return found


class StepWatch:
    """Compares the k coordinates before and after one step of a masked optimizer."""

    def __init__(self, compacts: Sequence[CompactParameter], start: Mapping[str, Tensor]) -> None:
        """Take the values as they are before the step; `start` holds the stored ones of the first."""
        self._compacts, self._start = compacts, start
        self._values = [compact.values.detach().clone() for compact in compacts]
        self._stored = [compact.stored() for compact in compacts]

    def measure(self, summed: Summed) -> dict[str, float]:
        """Return what the step did, over all masked coordinates:

        - `update_to_weight`: ‖values after - before‖ / ‖values before‖,
        - `moved_share`: the share whose stored bits this step changed,
        - `moved_since_start`: the share whose stored bits differ from those training began with,
        - `pending`: ‖masters - stored weights‖ / ‖masters‖, what the weights do not show yet.
        """
        sums = torch.zeros(7, dtype=torch.float64)
        for compact, values, stored in zip(self._compacts, self._values, self._stored, strict=True):
            if not compact.part.first_copy:
                continue
            after, shown = compact.values.detach(), compact.stored()
            start = self._start[compact.name].to(shown.device, shown.dtype)
            sums += _host(
                _squared(after - values),
                _squared(values),
                _differ(shown, stored),
                _differ(shown, start),
                _squared(after - shown.float()),
                _squared(after),
                after.new_tensor(float(after.numel())),
            )
        update, weight, moved, since, pending, masters, count = summed(sums).tolist()
        return {
            "update_to_weight": math.sqrt(update / weight) if weight else 0.0,
            "moved_share": moved / count,
            "moved_since_start": since / count,
            "pending": math.sqrt(pending / masters) if masters else 0.0,
        }


def watch_moments(
    optimizer: torch.optim.Optimizer,
    due: Callable[[], bool],
    record: Callable[[dict[str, float]], None],
) -> None:
    """Give `record` the `moments` of a plain torch optimizer after each of its steps that is `due`."""

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if due():
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            record(moments(optimizer.state, parameters, lambda sums: sums))

    optimizer.register_step_post_hook(after_step)


def _moment(state: Mapping[str, Any], names: Sequence[str], which: int) -> Tensor | None:
    """The first or second moment of a parameter in fp32, or None if it keeps none."""
    found = next((state[name] for name in names if state.get(name) is not None), None)
    if found is None or found.dtype != torch.uint8:
        return found
    from bitsandbytes.functional import dequantize_blockwise

    scale, code = state[f"absmax{which}"], state[f"qmap{which}"]
    return dequantize_blockwise(found, absmax=scale, code=code, blocksize=256)


def _squared(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dtype=torch.float64).square()


def _differ(one: Tensor, other: Tensor) -> Tensor:
    bits = torch.int32 if one.element_size() == 4 else torch.int16
    return (one.view(bits) != other.view(bits)).sum()


def _host(*sums: Tensor) -> Tensor:
    return torch.stack([one.double() for one in sums]).cpu()
