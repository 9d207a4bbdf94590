"""Wherever an operation on sparse adapters breaks off, the base's bits are safe and nothing is half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel
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
from tests.adapters.breaking import Broken, breaking, strange, threads
from tests.adapters.several import Several, assert_shows
from tests.conftest import make_qwen3

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
    "hotswap": lambda m, s: hotswap_adapter(m, str(s.folders["two"]), "one"),
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
    several: Several, operation: str, error: type[BaseException], count: int = 1
) -> Iterator[PeftModel]:
    """The model after each place where an operation can break off, until it does not."""
    for at in range(1, 1000):
        model = several.loaded("one", "two")
        with breaking(at, error) as seen, threads(count):
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


UNCHANGING = sorted(OPERATIONS.keys() - {*REPLACING, *ENDING, "context"})


@pytest.mark.parametrize(
    ("operation", "error", "count"),
    [
        *((operation, KeyboardInterrupt, 1) for operation in UNCHANGING),
        ("set_adapter", Broken, 1),
        ("set_adapter", Broken, 2),
    ],
)
def test_what_breaks_off_halfway_changes_nothing(
    operation: str, error: type[BaseException], count: int, tmp_path: Path
) -> None:
    several = Several(tmp_path, strange(make_layers(), torch.bfloat16))
    for model in break_everywhere(several, operation, error, count):
        assert_shows(model, several.expected("one"))
        model.set_adapter("two", inference_mode=True)
        assert_shows(model, several.expected("two"))
        model.set_adapter("one", inference_mode=True)
        assert_shows(model, several.expected("one"))
        logits_of(model)


@pytest.mark.parametrize("operation", REPLACING)
def test_an_adapter_is_replaced_wholly_or_not_at_all(operation: str, tmp_path: Path) -> None:
    several = Several(tmp_path, strange(make_layers(), torch.bfloat16))
    for model in break_everywhere(several, operation, KeyboardInterrupt):
        ends = [several.expected(name) for name in ("one", "three", "two")]
        assert [] in [differing(checkpoint_of(model), end) for end in ends]
        model.set_adapter("two", inference_mode=True)
        assert_shows(model, several.expected("two"))


def test_a_context_whose_end_breaks_off_leaves_adapters_enabled_or_disabled(tmp_path: Path) -> None:
    several = Several(tmp_path, strange(make_layers(), torch.bfloat16))
    for model in break_everywhere(several, "context", KeyboardInterrupt):
        enabled = model.get_model_status().enabled
        assert_shows(model, several.expected("one") if enabled is True else several.start)
        model.base_model.enable_adapter_layers()
        assert_shows(model, several.expected("one"))


def test_unloading_that_broke_off_can_be_asked_for_again(tmp_path: Path) -> None:
    several = Several(tmp_path, strange(make_layers(), torch.bfloat16))
    for model in break_everywhere(several, "unload", Broken):
        model.unload()


def test_deleting_that_broke_off_leaves_the_other_adapter_as_it_is(tmp_path: Path) -> None:
    several = Several(tmp_path, strange(make_layers(), torch.bfloat16))
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


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(torch.optim.SGD, {}), (bitsandbytes.optim.AdamW8bit, {"min_8bit_size": 1})],
    ids=["sgd", "8-bit"],
)
def test_a_step_that_breaks_off_is_caught_up_with_before_the_model_runs(
    tmp_path: Path, kind: Any, settings: dict[str, Any]
) -> None:
    """Also where the optimizer changes values without telling torch."""
    several = Several(tmp_path, Net(), odd=False)
    model = several.loaded("one", is_trainable=True)
    optimizer = kind([*values_of(model, "one").values()], lr=0.1, **settings)
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
