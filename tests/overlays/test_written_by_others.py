"""What someone else writes to a weight while an adapter is on it stays, and is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import Qwen3ForCausalLM

import sparseopd
from sparseopd.adapter_files import SparseAdapter
from sparseopd.adapter_files.extract import extract
from sparseopd.adapters import SparseConfig
from sparseopd.errors import AdapterError, AdapterMismatchError
from sparseopd.masks import select
from tests.conftest import make_qwen3


@pytest.fixture
def patches(tmp_path: Path) -> list[Path]:
    """Two patches, from the first of three models to the second, and from that to the third."""
    models = [make_qwen3() for _ in range(3)]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for step, model in enumerate(models):
            for weight in model.parameters():
                weight.add_(step * torch.randn(weight.shape, generator=generator).round())
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, base, tuned in zip(folders, models, models[1:], strict=False):
        extract(base, tuned, folder, selection=None)
    return folders


def write_all(model: Qwen3ForCausalLM, other: Qwen3ForCausalLM) -> None:
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, new in other.named_parameters():
            weights[name].copy_(new)


def agrees(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def test_removing_leaves_what_was_written_meanwhile(patches: list[Path]) -> None:
    model, other = make_qwen3(), make_qwen3(seed=5)
    sparseopd.apply(model, patches[0])
    write_all(model, other)
    sparseopd.remove(model)
    assert agrees(model, other)


def test_disabling_leaves_what_was_written_meanwhile(tmp_path: Path) -> None:
    base, other = make_qwen3(), make_qwen3(seed=5)
    model = get_peft_model(base, SparseConfig(mask=select(base, selector="random", density=0.3)))
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "sparseopd_" in name:
                values.add_(1.0)
    model.set_adapter("default", inference_mode=True)
    write_all(base, other)
    assert agrees(model.unload(), other)


def test_a_model_that_was_written_meanwhile_is_verified_anew(patches: list[Path]) -> None:
    model = make_qwen3()
    sparseopd.apply(model, patches[0])
    write_all(model, make_qwen3(seed=5))
    for patch in patches:
        with pytest.raises(AdapterMismatchError):
            sparseopd.apply(model, patch)


def test_peft_verifies_anew_what_was_written_meanwhile(tmp_path: Path) -> None:
    base = make_qwen3()
    model = get_peft_model(base, SparseConfig(mask=select(base, selector="random", density=0.3)))
    model.save_pretrained(str(tmp_path))
    with model.disable_adapter(), torch.no_grad():
        for name, weight in base.named_parameters():
            if "sparseopd_" not in name:
                weight.add_(1.0)
    with pytest.raises(AdapterMismatchError):
        model.load_adapter(str(tmp_path), "again")


def test_a_patch_that_comes_twice_is_refused(patches: list[Path]) -> None:
    model = make_qwen3()
    for patch in patches:
        sparseopd.apply(model, patch)
    with pytest.raises(AdapterMismatchError):
        sparseopd.apply(model, patches[0])


def test_a_peft_model_is_told_to_load_the_adapter(patches: list[Path]) -> None:
    base = make_qwen3()
    model = get_peft_model(base, SparseConfig(mask=select(base, selector="random", density=0.3)))
    with pytest.raises(AdapterError, match="load_adapter"):
        sparseopd.apply(model, patches[0])


def test_an_adapter_saved_while_others_are_on_knows_its_result(tmp_path: Path) -> None:
    base = make_qwen3()
    mask = select(base, selector="random", density=0.3)
    model = get_peft_model(base, SparseConfig(mask=mask))
    model.save_pretrained(str(tmp_path / "one"))
    both = PeftModel.from_pretrained(make_qwen3(), tmp_path / "one", "a")
    both.load_adapter(str(tmp_path / "one"), "b")
    both.unmerge_adapter()
    both.save_pretrained(str(tmp_path / "two"))
    saved = SparseAdapter.load(tmp_path / "two" / "b")
    assert saved.result_state() == SparseAdapter.load(tmp_path / "one").result_state() != ""


@pytest.mark.parametrize(
    ("adapters", "weights"), [(["default", "default"], [0.5, 0.5]), (["default"], [float("nan")])]
)
def test_a_sum_of_one_adapter_twice_or_with_no_number_is_refused(
    adapters: list[str], weights: list[float]
) -> None:
    base = make_qwen3()
    model = get_peft_model(base, SparseConfig(mask=select(base, selector="random", density=0.3)))
    with pytest.raises(AdapterError, match="no sum"):
        model.add_weighted_adapter(adapters, weights, "sum")
