"""Bases, masks and weights that a sparse adapter does not belong to are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from torch import nn
from transformers import Qwen3ForCausalLM

from sparseopd.errors import AdapterError, AdapterMismatchError, MaskFileError, MaskMismatchError
from sparseopd.masks import Mask
from tests.adapters.adapted import (
    Net,
    adapt,
    differing,
    loss_of,
    mask_of,
    new_values,
    weights_of,
    write_adapter,
)
from tests.adapters.several import Several, assert_shows
from tests.conftest import make_moe, make_qwen3


@pytest.fixture
def several(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> Several:
    return Several(tmp_path, qwen3.bfloat16())


def test_an_adapter_of_another_base_is_refused_by_naming_tensors(
    several: Several, tmp_path: Path
) -> None:
    other = make_qwen3(seed=5).bfloat16()
    mask = mask_of(other)
    folder = write_adapter(tmp_path / "other", other, mask, new_values(mask, other, 0))
    model = several.loaded("one")
    for load in (
        lambda: model.load_adapter(folder, "b"),
        lambda: hotswap_adapter(model, str(folder), "one"),
    ):
        with pytest.raises(AdapterMismatchError, match=r"model\.embed_tokens\.weight") as error:
            load()
        assert set(error.value.tensors) <= {*mask.names}
        assert_shows(model, several.expected("one"))
    assert [*model.peft_config] == ["one"]
    model.save_pretrained(str(tmp_path / "still"))


def test_one_other_tensor_is_enough_to_be_refused(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> None:
    mask = mask_of(qwen3)
    folder = write_adapter(tmp_path / "a", qwen3, mask, new_values(mask, qwen3, 0))
    with torch.no_grad():
        qwen3.model.norm.weight[3] = -0.0 if qwen3.model.norm.weight[3] == 0 else 0.5
    before = weights_of(qwen3)
    with pytest.raises(AdapterMismatchError) as error:
        PeftModel.from_pretrained(qwen3, folder)
    assert error.value.tensors == {"model.norm.weight": "other values"}
    assert differing(weights_of(qwen3), before) == []


def test_a_mask_of_another_model_is_refused_before_anything_is_touched() -> None:
    base = make_moe()
    before = weights_of(base)
    with pytest.raises(MaskMismatchError, match="lacks"):
        adapt(base, mask_of(make_qwen3(), scope=["*.mlp.*"]))
    assert differing(weights_of(base), before) == []
    assert all(weight.requires_grad for weight in base.parameters())
    model = adapt(base, mask_of(base))
    with pytest.raises(MaskMismatchError, match="lacks"):
        model.add_adapter("b", type(model.peft_config["default"])(mask=mask_of(make_qwen3())))
    assert [*model.peft_config] == ["default"]
    loss_of(model).backward()


def test_a_configuration_without_a_mask_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    with pytest.raises(AdapterError, match="no mask"):
        adapt(qwen3, None)  # pyright: ignore[reportArgumentType]
    assert all(weight.requires_grad for weight in qwen3.parameters())


def test_an_empty_mask_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    mask = mask_of(qwen3)
    with pytest.raises(AdapterError, match="empty"):
        adapt(qwen3, mask - mask)


def test_a_damaged_mask_file_is_refused(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> None:
    path = tmp_path / "mask.safetensors"
    mask_of(qwen3).save(path)
    assert adapt(make_qwen3(), path).peft_config["default"].k == Mask.load(path).count()  # pyright: ignore
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(MaskFileError):
        adapt(qwen3, path)  # pyright: ignore[reportArgumentType]
    assert all(weight.requires_grad for weight in qwen3.parameters())


def test_quantized_weights_are_refused_by_name(tmp_path: Path) -> None:
    base = Net()
    mask = mask_of(base)
    folder = write_adapter(tmp_path / "a", base, mask, new_values(mask, base, 0))
    base.block.attention.out_proj.weight = nn.Parameter(
        torch.zeros(6, 6, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(AdapterError, match=r"block\.attention\.out_proj\.weight"):
        PeftModel.from_pretrained(base, folder)
