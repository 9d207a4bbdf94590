"""Tell autograd which bits a weight holds, not how often it was written.

torch counts the writes to a tensor, and refuses a backward pass through a weight that was written since
the forward pass. A weight that held an adapter's values then, and the base's for a while since, holds
the same bits again; its count is set back, so that the pass may go on. With other bits it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

_REMEMBERED = 8
"""States a weight has been in, of which the count is known."""
_APART = 1 << 10
"""Between the counts of two states, so that writes by others after one do not reach the next."""

State = tuple[tuple[int, int | None], ...]
"""What is over a weight: the serial number of each overlay, and the count of its values."""


class Versions:
    """The counts of one weight in the states it has been in lately."""

    def __init__(self) -> None:
        self._known: list[tuple[State, int]] = []
        self._highest = 0
        self._left = 0
        """The count it was left with; another one means that someone else has written to it."""

    def is_foreign(self, weight: Tensor) -> bool:
        """Whether someone else has written to the weight since it was left."""
        return version(weight) != self._left

    @contextmanager
    def of(self, weight: Tensor, state: Callable[[], State]) -> Iterator[None]:
        """Note a weight's count before it is written, and set it afterwards, by its `state` then.

        A state it has not been in gets a count that no other one had.
        """
        if weight.is_inference():  # which no backward pass will need
            yield
            return
        before = state(), weight._version
        known = [] if self.is_foreign(weight) else self._known
        others = [one for one in known if one[0] != before[0]]
        self._known = [*others, before][-_REMEMBERED:]
        yield
        self._highest = max(self._highest, weight._version, before[1]) + _APART
        self._left = dict(self._known).get(state(), self._highest)
        set_version(weight, self._left)


def counts(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Return where each weight lies and how often it was written: equal only if no one changed any."""
    return {name: (weight.data_ptr(), version(weight)) for name, weight in weights.items()}


def version(tensor: Tensor) -> int:
    """Return the count of writes to a tensor; 0 for one made in inference mode, which has none."""
    return 0 if tensor.is_inference() else tensor._version


def set_version(tensor: Tensor, version: int) -> None:
    """Set the count of writes that autograd compares.

    The one place that calls `torch._C._autograd._unsafe_set_version_counter`, read from torch 2.13.0,
    which torch's own `_unsafe_preserve_version_counter` uses (tests/overlays has a test of both).
    """
    counters = torch._C._autograd  # pyright: ignore[reportAttributeAccessIssue]
    counters._unsafe_set_version_counter((tensor,), (version,))
