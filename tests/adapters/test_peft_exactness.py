"""Whatever is done with sparse adapters, the base's bits come back."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor

from tests.adapters.adapted import (
    Net,
    checkpoint_of,
    differing,
    logits_of,
    loss_of,
    make_layers,
    values_of,
)
from tests.adapters.breaking import STRANGE, strange, threads
from tests.adapters.several import NAMES, Several, assert_shows


class Course:
    """A model driven at random, and what its weights should be after every step."""

    def __init__(self, several: Several, seed: int) -> None:
        self.several, self.random = several, random.Random(seed)
        self.model = several.loaded(*NAMES)
        self.active: list[str] = ["one"]
        self.disabled = self.unmerged = False
        often = [self.switch, self.stack, self.within, self.disable, self.enable, self.merge]
        seldom = [self.reload, self.hotswap, self.weighted, self.unload]
        self.steps: list[Callable[[], None]] = [*often * 5, *[self.unmerge, self.run] * 3, *seldom]

    def expected(self) -> dict[str, Tensor]:
        hidden = self.disabled or self.unmerged
        return self.several.expected(*([] if hidden else self.active))

    def go(self, steps: int, check_every: int = 1) -> None:
        """Take some steps."""
        for number in range(steps):
            self.random.choice(self.steps)()
            if number % check_every == 0:
                assert_shows(self.model, self.expected())

    def switch(self) -> None:
        self.active, self.unmerged = [self.random.choice(NAMES)], False
        self.model.set_adapter(self.active[0], inference_mode=True)

    def stack(self) -> None:
        self.active = self.random.sample(NAMES, self.random.randint(0, 3))
        self.unmerged = False
        self.model.base_model.set_adapter([*self.active], inference_mode=True)

    def within(self) -> None:
        """With adapters disabled, perhaps leaving through an exception."""
        if len(self.active) != 1 or self.disabled:
            return
        with suppress(KeyError), self.model.disable_adapter():
            assert_shows(self.model, self.several.start)
            if self.random.random() < 0.5:
                raise KeyError

    def disable(self) -> None:
        self.disabled = True
        self.model.base_model.disable_adapter_layers()

    def enable(self) -> None:
        self.disabled = False
        self.model.base_model.enable_adapter_layers()

    def merge(self) -> None:
        self.unmerged = False
        self.model.merge_adapter()

    def unmerge(self) -> None:
        self.unmerged = True
        self.model.unmerge_adapter()

    def run(self) -> None:
        self.unmerged = False
        with torch.no_grad():
            logits_of(self.model)

    def reload(self) -> None:
        """Load an adapter again over itself."""
        name = self.random.choice(NAMES)
        self.model.load_adapter(self.several.folders[name], name)

    def hotswap(self) -> None:
        """Swap another in for an adapter, and it again for that."""
        one, other = self.random.sample(NAMES, 2)
        for name in (other, one):
            hotswap_adapter(self.model, str(self.several.folders[name]), one)

    def weighted(self) -> None:
        """Sum two, look at the sum, and forget it."""
        if self.disabled:
            return
        self.model.add_weighted_adapter([*NAMES[:2]], [0.5, 0.25], "sum")
        self.model.base_model.set_adapter(["sum"], inference_mode=True)
        self.model.base_model.set_adapter([*self.active], inference_mode=True)
        self.model.delete_adapter("sum")
        self.unmerged = False

    def unload(self) -> None:
        """Take everything off, and begin anew."""
        assert_shows(self.model.unload(), self.several.start)
        self.model = self.several.loaded(*NAMES)
        self.active, self.disabled, self.unmerged = ["one"], False, False


@pytest.mark.parametrize(
    ("dtype", "steps", "count"),
    [(torch.bfloat16, 1000, 1), (torch.float16, 1000, 1), (torch.float32, 150, 2)],
    ids=str,
)
def test_a_thousand_steps_leave_the_base_as_it_was(
    tmp_path: Path, dtype: torch.dtype, steps: int, count: int
) -> None:
    base = Net() if steps < 1000 else make_layers()
    course = Course(Several(tmp_path, strange(base, dtype)), seed=0)
    with threads(count):
        course.go(steps, check_every=5)
    assert_shows(course.model.unload(), course.several.start)


@pytest.mark.parametrize("dtype", STRANGE, ids=str)
def test_training_in_between_leaves_the_base_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    """Optimizers hold the k-vectors across switches; each adapter keeps what it has learned."""
    base = Net().to(dtype)
    several = Several(tmp_path, base, odd=False)
    model = several.loaded(*NAMES)
    learned: dict[str, dict[str, Tensor]] = {}
    for turn in range(30):
        name = NAMES[turn % 3]
        model.set_adapter(name)
        if name in learned:
            assert differing(checkpoint_of(model), learned[name]) == []
        optimizer = torch.optim.SGD(values_of(model, name).values(), lr=1e-3)
        loss_of(model, turn).backward()
        optimizer.step()
        with model.disable_adapter():
            assert differing(checkpoint_of(model), several.start) == []
        learned[name] = checkpoint_of(model)
    assert differing(learned["one"], learned["two"]) != []
    assert_shows(model.unload(), several.start)
