"""Weighted sums of sparse adapters, and their conflicts counted coordinate by coordinate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import Qwen3ForCausalLM

from sparseopd.adapters import Conflicts
from sparseopd.errors import AdapterError
from tests.adapters.adapted import (
    Net,
    as_bits,
    checkpoint_of,
)
from tests.adapters.several import NAMES, Several, assert_shows
from tests.conftest import make_qwen3


@pytest.fixture
def several(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> Several:
    return Several(tmp_path, qwen3.bfloat16())


def drawn(model: PeftModel, several: Several, name: str) -> dict[str, Tensor]:
    """An adapter's values written densely over the base, float64."""
    return {key: tensor.double() for key, tensor in several.expected(name).items()}


def by_hand(
    several: Several, adapters: dict[str, float], model: PeftModel
) -> tuple[dict[str, Tensor], Conflicts]:
    """The weighted sum and its conflicts, coordinate by coordinate."""
    total, shared, opposed, chosen, tensors = {}, 0, 0, 0, {}
    for name, base in several.start.items():
        moves = {
            a: w * (drawn(model, several, a)[name] - base.double()) for a, w in adapters.items()
        }
        has = torch.stack([several.masks[a][name] for a in adapters])
        signs = torch.stack([torch.sign(moves[a]) * several.masks[a][name] for a in adapters])
        twice = has.sum(0) > 1
        both = (signs.amax(0) > 0) & (signs.amin(0) < 0)
        total[name] = (base.double() + sum(moves.values())).to(base.dtype)
        chosen += int(has.any(0).sum())
        if bool(twice.any()):
            tensors[name] = int(twice.sum()), int((twice & both).sum())
            shared, opposed = shared + tensors[name][0], opposed + tensors[name][1]
    return total, Conflicts(shared, opposed, chosen, tensors)


@pytest.mark.parametrize(
    "weights",
    [{"one": 0.5, "two": 0.5}, {"one": 1.0, "two": -2.0, "three": 0.25}, {"three": 3.0}],
    ids=str,
)
def test_a_weighted_sum_is_that_of_the_differences(
    tmp_path: Path, weights: dict[str, float]
) -> None:
    several = Several(tmp_path, make_qwen3(), odd=False)
    model = several.loaded(*NAMES)
    found = model.add_weighted_adapter([*weights], [*weights.values()], "sum")
    expected, conflicts = by_hand(several, weights, model)
    assert found == conflicts
    assert conflicts.opposed > 0 or len(weights) == 1
    assert_shows(model, several.expected("one"))
    model.set_adapter("sum", inference_mode=True)
    for name, tensor in checkpoint_of(model).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)
        off = ~torch.stack([several.masks[a][name] for a in weights]).any(0)
        assert torch.equal(tensor[off], several.start[name][off])
    model.set_adapter("one", inference_mode=True)
    assert_shows(model.unload(), several.start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_single_adapter_of_weight_one_keeps_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    """Negative zeros, infinities and NaNs among them."""
    several = Several(tmp_path, make_qwen3().to(dtype))
    model = several.loaded("one")
    assert model.add_weighted_adapter(["one"], [1.0], "same").shared == 0
    model.set_adapter("same", inference_mode=True)
    assert_shows(model, several.expected("one"))


def test_where_one_adapter_alone_has_a_coordinate_a_sum_of_ones_keeps_its_bits(
    several: Several,
) -> None:
    model = several.loaded("one", "two")
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "sum")
    model.set_adapter("sum", inference_mode=True)
    found = checkpoint_of(model)
    for name in ("one", "two"):
        alone = several.masks[name] - several.masks["two" if name == "one" else "one"]
        for key, tensor in several.expected(name).items():
            assert torch.equal(as_bits(found[key])[alone[key]], as_bits(tensor)[alone[key]]), key


def test_half_and_half_of_one_adapter_is_that_adapter_over_an_infinite_base(tmp_path: Path) -> None:
    base = Net()
    with torch.no_grad():
        for weight in base.parameters():
            weight.view(-1)[::3] = float("inf")
    several = Several(tmp_path, base, odd=False)
    model = several.loaded("one")
    model.load_adapter(several.folders["one"], "again")
    model.add_weighted_adapter(["one", "again"], [0.5, 0.5], "sum")
    model.set_adapter("sum", inference_mode=True)
    assert_shows(model, several.expected("one"))


def test_a_sum_is_saved_and_loaded_as_any_adapter(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3(), odd=False)
    model = several.loaded("one", "two")
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], "sum")
    model.set_adapter("sum", inference_mode=True)
    expected = checkpoint_of(model)
    model.save_pretrained(str(tmp_path / "out"), selected_adapters=["sum"])
    again = PeftModel.from_pretrained(make_qwen3(), tmp_path / "out" / "sum")
    assert_shows(again, expected)


@pytest.mark.parametrize(
    ("adapters", "weights", "name", "sentence"),
    [
        (["one", "nope"], [1.0, 1.0], "sum", "no sparse adapter nope"),
        (["one"], [1.0, 1.0], "sum", "1 adapters and 2 weights"),
        ([], [], "sum", "0 adapters"),
        (["one"], [1.0], "one", "adapter one already"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(
    several: Several, adapters: list[str], weights: list[float], name: str, sentence: str
) -> None:
    model = several.loaded("one")
    with pytest.raises(AdapterError, match=sentence):
        model.add_weighted_adapter(adapters, weights, name)
    assert [*model.peft_config] == ["one"]
    assert_shows(model, several.expected("one"))
