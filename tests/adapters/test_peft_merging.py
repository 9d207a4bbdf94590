"""Merging, unmerging and unloading leave plain models with the values, or the base's bits."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import Qwen3ForCausalLM

from sparseopd.errors import AdapterError
from tests.adapters.adapted import (
    adapt,
    differing,
    logits_of,
    loss_of,
    mask_of,
    values_of,
    weights_of,
)
from tests.adapters.test_peft_tuner import random_values, written


@pytest.mark.parametrize("safe", [False, True])
def test_merging_and_unloading_leaves_a_plain_model_with_the_values(
    qwen3: Qwen3ForCausalLM, safe: bool
) -> None:
    plain = copy.deepcopy(qwen3)
    model = adapt(qwen3, mask_of(qwen3))
    random_values(model)
    expected = weights_of(model)
    left = model.merge_and_unload(safe_merge=safe)
    assert left is qwen3
    assert differing(weights_of(left), expected) == []
    assert differing(weights_of(left), weights_of(plain)) != []
    assert [type(m) for m in left.modules()] == [type(m) for m in plain.modules()]
    assert [*left.state_dict()] == [*plain.state_dict()]
    assert not hasattr(left, "peft_config")


def test_unloading_gives_the_base_back_and_it_can_be_adapted_again(qwen3: Qwen3ForCausalLM) -> None:
    plain, mask = copy.deepcopy(qwen3), mask_of(qwen3)
    model = adapt(qwen3, mask)
    random_values(model)
    left = model.unload()
    assert differing(weights_of(left), weights_of(plain)) == []
    assert [type(m) for m in left.modules()] == [type(m) for m in plain.modules()]
    again = adapt(left, mask)
    loss_of(again).backward()
    assert all(values.grad is not None for values in values_of(again).values())


@pytest.mark.parametrize("end", ["merge_and_unload", "unload"])
def test_nothing_comes_back_on_a_model_that_was_unloaded_while_unmerged(
    qwen3: Qwen3ForCausalLM, end: str
) -> None:
    plain = copy.deepcopy(qwen3)
    model = adapt(qwen3, mask_of(qwen3))
    random_values(model)
    model.merge_adapter()
    model.unmerge_adapter()
    left = getattr(model, end)()
    assert not any(module._forward_pre_hooks for module in left.modules())
    held = weights_of(left)
    logits_of(left)
    assert [type(m) for m in left.modules()] == [type(m) for m in plain.modules()]
    assert differing(weights_of(left), held) == []


def test_merging_keeps_the_values_and_unmerging_the_base_until_the_model_runs(
    qwen3: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    before = weights_of(qwen3)
    folder, _ = written(tmp_path, qwen3)
    model = PeftModel.from_pretrained(qwen3, folder)
    shown, said = weights_of(model), logits_of(model)
    model.merge_adapter()
    assert differing(weights_of(model), shown) == []
    model.unmerge_adapter()
    assert differing(weights_of(model), before) == []
    assert torch.equal(logits_of(model).nan_to_num(), said.nan_to_num())
    assert differing(weights_of(model), shown) == []


def test_safe_merge_refuses_values_that_are_not_finite(
    qwen3: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    folder, _ = written(tmp_path, qwen3)
    model = PeftModel.from_pretrained(qwen3, folder)
    shown = weights_of(model)
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_and_unload(safe_merge=True)
    assert differing(weights_of(model), shown) == []
    assert model.get_model_status().merged_adapters == []


def test_merging_an_adapter_that_is_not_there_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    model = adapt(qwen3, mask_of(qwen3))
    random_values(model)
    shown = weights_of(model)
    with pytest.raises(AdapterError, match="nope"):
        model.merge_and_unload(adapter_names=["nope"])
    assert differing(weights_of(model), shown) == []
