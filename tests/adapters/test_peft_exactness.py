"""Whatever is done with sparse adapters, and wherever it breaks off, the base's bits come back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor, nn

from sparseopd.masks.places import Places
from tests.adapters.adapted import (
    Net,
    as_bits,
    checkpoint_of,
    differing,
    logits_of,
    loss_of,
    values_of,
)
from tests.adapters.test_peft_several import NAMES, Several, assert_shows
from tests.conftest import make_qwen3

STRANGE = {
    torch.float32: (0x7FA00001, -1, -0x80000000, 0x7F800000, 1),
    torch.bfloat16: (0x7F81, -1, -0x8000, 0x7F80, 1),
    torch.float16: (0x7C01, -1, -0x8000, 0x7C00, 1),
}
"""Bits of a signalling NaN, a NaN full of ones, −0.0, infinity and the smallest number."""


def strange(base: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The base with such bits strewn in."""
    generator = torch.Generator().manual_seed(7)
    for weight in base.to(dtype).parameters():
        bits = as_bits(weight.data)
        drawn = torch.randint(0, 12, bits.shape, generator=generator)
        for number, pattern in enumerate(STRANGE[dtype]):
            bits[drawn == number] = pattern
    return base


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


@pytest.mark.parametrize("dtype", STRANGE, ids=str)
def test_a_thousand_steps_leave_the_base_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    course = Course(Several(tmp_path, strange(Net(), dtype)), seed=0)
    course.go(1000, check_every=3)
    assert_shows(course.model.unload(), course.several.start)


@pytest.mark.parametrize("dtype", STRANGE, ids=str)
def test_training_in_between_leaves_the_base_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    """Optimizers hold the k-vectors across switches; each adapter keeps what it has learned."""
    base = Net().to(dtype)
    several = Several(tmp_path, base, odd=False)
    model = several.loaded(*NAMES)
    learned: dict[str, dict[str, Tensor]] = {}
    for turn in range(60):
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


class Broken(Exception):
    """What breaks an operation off."""


@contextmanager
def breaking(at: int, error: type[BaseException]) -> Iterator[list[int]]:
    """Have the `at`-th write of values stop halfway."""
    seen, put = [0], Places.put

    def stop_halfway(self: Places, dense: Tensor, values: Tensor) -> None:
        seen[0] += 1
        if seen[0] != at:
            return put(self, dense, values)
        half = self.take(dense).clone()
        half[: self.k // 2] = values[: self.k // 2].to(half)
        put(self, dense, half)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Places, "put", stop_halfway)
        yield seen


OPERATIONS: dict[str, Callable[[PeftModel, Several], Any]] = {
    "set_adapter": lambda m, s: m.set_adapter("two", inference_mode=True),
    "train": lambda m, s: m.set_adapter("two"),
    "stack": lambda m, s: m.base_model.set_adapter(["two", "one"]),
    "disable": lambda m, s: m.base_model.disable_adapter_layers(),
    "merge": lambda m, s: m.merge_adapter(adapter_names=["two", "one"]),
    "unmerge": lambda m, s: m.unmerge_adapter(),
    "context": lambda m, s: within(m),
    "load": lambda m, s: m.load_adapter(s.folders["three"], "three"),
    "replace": lambda m, s: m.load_adapter(s.folders["three"], "one"),
    "hotswap": lambda m, s: hotswap_adapter(m, str(s.folders["three"]), "one"),
    "delete": lambda m, s: m.delete_adapter("one"),
    "weighted": lambda m, s: m.add_weighted_adapter(["one", "two"], [0.5, 0.5], "sum"),
    "unload": lambda m, s: m.unload(),
}


def within(model: PeftModel) -> None:
    """Disable and enable again."""
    with model.disable_adapter():
        pass


REPLACING, ENDING = ("hotswap", "replace"), ("delete", "unload")


def break_everywhere(
    several: Several, operation: str, error: type[BaseException]
) -> Iterator[PeftModel]:
    """The model after each place where an operation can break off, until it does not."""
    for at in range(1, 1000):
        model = several.loaded("one", "two")
        with breaking(at, error) as seen:
            try:
                OPERATIONS[operation](model, several)
            except error:
                yield model
        if hasattr(several.base, "peft_config"):
            model.unload()
        assert_shows(several.base, several.start)
        if seen[0] < at:
            assert at > 5
            return


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {*REPLACING, *ENDING, "context"}))
def test_what_breaks_off_halfway_changes_nothing(
    operation: str, error: type[BaseException], tmp_path: Path
) -> None:
    several = Several(tmp_path, strange(Net(), torch.bfloat16))
    for model in break_everywhere(several, operation, error):
        assert_shows(model, several.expected("one"))
        model.set_adapter("two", inference_mode=True)
        assert_shows(model, several.expected("two"))
        model.set_adapter("one", inference_mode=True)
        assert_shows(model, several.expected("one"))


@pytest.mark.parametrize("operation", REPLACING)
def test_an_adapter_is_replaced_wholly_or_not_at_all(operation: str, tmp_path: Path) -> None:
    several = Several(tmp_path, strange(Net(), torch.bfloat16))
    for model in break_everywhere(several, operation, KeyboardInterrupt):
        ends = [several.expected(name) for name in ("one", "three")]
        assert [] in [differing(checkpoint_of(model), end) for end in ends]
        model.set_adapter("two", inference_mode=True)
        assert_shows(model, several.expected("two"))


def test_a_context_whose_end_breaks_off_leaves_adapters_enabled_or_disabled(tmp_path: Path) -> None:
    several = Several(tmp_path, strange(Net(), torch.bfloat16))
    for model in break_everywhere(several, "context", KeyboardInterrupt):
        enabled = model.get_model_status().enabled
        assert_shows(model, several.expected("one") if enabled is True else several.start)
        model.base_model.enable_adapter_layers()
        assert_shows(model, several.expected("one"))


def test_unloading_that_broke_off_can_be_asked_for_again(tmp_path: Path) -> None:
    several = Several(tmp_path, strange(Net(), torch.bfloat16))
    for model in break_everywhere(several, "unload", Broken):
        model.unload()


def test_deleting_that_broke_off_leaves_the_other_adapter_as_it_is(tmp_path: Path) -> None:
    several = Several(tmp_path, strange(Net(), torch.bfloat16))
    for model in break_everywhere(several, "delete", Broken):
        if "one" in model.peft_config:
            model.delete_adapter("one")
        model.set_adapter("two", inference_mode=True)
        assert_shows(model, several.expected("two"))


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_an_exception_while_adapters_are_disabled_brings_them_back(
    tmp_path: Path, error: type[BaseException]
) -> None:
    several = Several(tmp_path, make_qwen3().bfloat16())
    model = several.loaded("one", "two")
    with pytest.raises(error), model.disable_adapter():
        assert_shows(model, several.start)
        raise error
    assert_shows(model, several.expected("one"))
    assert_shows(model.unload(), several.start)


def test_a_step_that_breaks_off_is_caught_up_with_before_the_model_runs(tmp_path: Path) -> None:
    several = Several(tmp_path, Net(), odd=False)
    model = several.loaded("one", is_trainable=True)
    optimizer = torch.optim.SGD([*values_of(model, "one").values()], lr=0.1)
    loss_of(model).backward()
    with breaking(3, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        optimizer.step()
    found = logits_of(model)
    again = several_values(model)
    for name, tensor in checkpoint_of(model).items():
        if name in again:
            assert torch.equal(tensor[several.masks["one"][name]], again[name]), name
    model.set_adapter("one", inference_mode=True)
    torch.testing.assert_close(found, logits_of(model))
    assert_shows(model.unload(), several.start)


def several_values(model: PeftModel) -> dict[str, Tensor]:
    """The k-vectors of an adapter of Net, by the names of their weights."""
    return {
        name.replace("sparseopd_", "").removesuffix(".adapters.one.k"): values.detach()
        for name, values in values_of(model, "one").items()
    }
