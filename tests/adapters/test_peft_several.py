"""Several sparse adapters on one model: switched, stacked, summed, swapped and deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from transformers import Qwen3ForCausalLM

from tests.adapters.adapted import (
    differing,
    logits_of,
    mask_of,
    merged,
    new_values,
    values_of,
    weights_of,
    write_adapter,
)
from tests.adapters.several import NAMES, Several, assert_shows
from tests.conftest import make_qwen3


@pytest.fixture
def several(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> Several:
    return Several(tmp_path, qwen3.bfloat16())


@pytest.mark.parametrize("inference", [True, False])
def test_switching_gives_each_adapters_bits(tmp_path: Path, inference: bool) -> None:
    several = Several(tmp_path, make_qwen3().bfloat16(), odd=inference)
    model = several.loaded(*NAMES)
    for name in (*NAMES, *reversed(NAMES), "two"):
        model.set_adapter(name, inference_mode=inference)
        assert model.active_adapter == name
        assert_shows(model, several.expected(name))
        trained = {value.requires_grad for value in values_of(model, name).values()}
        assert trained == {not inference}
        others = [n for n in NAMES if n != name]
        assert not any(v.requires_grad for n in others for v in values_of(model, n).values())
    assert_shows(model.unload(), several.start)


def test_of_several_active_ones_the_last_wins(several: Several) -> None:
    model = several.loaded(*NAMES)
    for names in (["one", "two"], ["two", "one"], ["three", "one", "two"], ["two"], []):
        model.base_model.set_adapter(names)
        assert_shows(model, several.expected(*names))
        with model.disable_adapter():
            assert_shows(model, several.start)
        assert_shows(model, several.expected(*names))
    assert_shows(model.unload(), several.start)


def test_an_adapter_named_twice_costs_the_base_nothing(several: Several) -> None:
    model = several.loaded("one", "two")
    model.base_model.set_adapter(["one", "two", "one"])
    assert_shows(model, several.expected("two", "one"))
    model.merge_adapter(adapter_names=["two", "two"])
    assert_shows(model, several.expected("two"))
    assert_shows(model.unload(), several.start)


def test_merging_chosen_adapters_leaves_those(several: Several) -> None:
    model = several.loaded(*NAMES)
    left = model.merge_and_unload(adapter_names=["three", "one"])
    assert_shows(left, several.expected("three", "one"))


def test_setting_an_unknown_adapter_is_refused_and_changes_nothing(several: Several) -> None:
    model = several.loaded("one", "two")
    for asked in ("nope", ["one", "nope"]):
        with pytest.raises(ValueError, match="nope"):
            model.base_model.set_adapter(asked)
        assert_shows(model, several.expected("one"))
    with pytest.raises(ValueError, match="nope"):
        model.delete_adapter("nope")


def test_an_inactive_adapter_is_deleted_without_a_trace(several: Several) -> None:
    model = several.loaded("one", "two")
    model.delete_adapter("two")
    assert_shows(model, several.expected("one"))
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not values_of(model, "two")
    assert (model.active_adapter, model.base_model.active_adapter) == ("one", "one")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("trained", [False, True], ids=["inference", "trained"])
def test_deleting_the_active_adapter_shows_the_first_that_is_left(
    tmp_path: Path, trained: bool
) -> None:
    several = Several(tmp_path, make_qwen3(), odd=False)
    model = several.loaded(*NAMES)
    model.set_adapter("one", inference_mode=not trained)
    with pytest.warns(UserWarning, match="was active"):
        model.delete_adapter("one")
    assert model.active_adapter == "two"
    assert_shows(model, several.expected("two"))
    assert {value.requires_grad for value in values_of(model, "two").values()} == {trained}
    assert_shows(model.unload(), several.start)


def test_deleting_the_last_adapter_shows_the_base(several: Several) -> None:
    model = several.loaded("one")
    model.delete_adapter("one")
    assert_shows(several.base, several.start)


def test_a_deleted_name_can_be_loaded_again(several: Several) -> None:
    model = several.loaded("one", "two")
    model.delete_adapter("two")
    model.load_adapter(several.folders["three"], "two")
    model.set_adapter("two", inference_mode=True)
    assert_shows(model, several.expected("three"))


def test_loading_over_the_active_adapter_replaces_it(several: Several) -> None:
    model = several.loaded("one")
    model.load_adapter(several.folders["two"], "one")
    assert_shows(model, several.expected("two"))
    with model.disable_adapter():
        assert_shows(model, several.start)


@pytest.mark.parametrize("trained", [False, True], ids=["inference", "trained"])
def test_hot_swapping_replaces_values_and_mask(tmp_path: Path, trained: bool) -> None:
    several = Several(tmp_path, make_qwen3(), odd=False)
    model = several.loaded("one", is_trainable=trained)
    for name in ("two", "three", "one"):
        hotswap_adapter(model, str(several.folders[name]), "one")
        assert_shows(model, several.expected(name))
        logits_of(model)
        assert_shows(model, several.expected(name))
    assert {value.requires_grad for value in values_of(model, "one").values()} == {trained}
    assert_shows(model.unload(), several.start)


def test_hot_swapping_values_of_the_same_mask_keeps_the_trained_parameters(tmp_path: Path) -> None:
    """An optimizer that holds them goes on with them."""
    base = make_qwen3()
    mask = mask_of(base)
    one, two = (
        write_adapter(tmp_path / str(seed), base, mask, new_values(mask, base, seed))
        for seed in (0, 1)
    )
    expected = merged(base, mask, new_values(mask, base, 1))
    model = PeftModel.from_pretrained(base, one, is_trainable=True)
    held = [*values_of(model).values()]
    hotswap_adapter(model, str(two), "default")
    assert all(a is b for a, b in zip(held, values_of(model).values(), strict=True))
    assert_shows(model, expected)


def test_hot_swapping_an_inactive_adapter_shows_nothing_yet(several: Several) -> None:
    model = several.loaded("one", "two")
    hotswap_adapter(model, str(several.folders["three"]), "two")
    assert_shows(model, several.expected("one"))
    model.set_adapter("two", inference_mode=True)
    assert_shows(model, several.expected("three"))


def test_an_adapter_loaded_while_disabled_stays_out_of_sight(tmp_path: Path) -> None:
    """Also on weights that no adapter had before."""
    base = make_qwen3()
    before = weights_of(base)
    folders = []
    for number, scope in enumerate(("*.mlp.*", "*self_attn*")):
        mask = mask_of(base, scope=[scope])
        values = new_values(mask, base, number)
        folders.append(write_adapter(tmp_path / str(number), base, mask, values))
    expected = merged(base, mask, values)
    model = PeftModel.from_pretrained(base, folders[0])
    with model.disable_adapter():
        model.load_adapter(folders[1], "second")
        model.set_adapter("second", inference_mode=True)
        assert differing(before, weights_of(model)) == []
        assert model.get_model_status().enabled is False
    assert_shows(model, expected)
