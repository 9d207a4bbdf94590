"""PEFT adapters made by others are read as PEFT applies them, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import FORMATS, detect, import_
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from tests.adapter_files.converting import counted
from tests.conftest import make_qwen3
from tests.masks.held import Held

PLACES = {"q.shira_indices": torch.zeros(2, 8, dtype=torch.int32)}
SUPER = {"q.supertuning_values": torch.ones(2), "q.supertuning_indices": torch.tensor([3, 1])}


def foreign(folder: Path, kind: str, tensors: dict[str, Tensor]) -> Path:
    """Write a PEFT adapter by hand."""
    where = folder / "foreign"
    where.mkdir()
    (where / "adapter_config.json").write_text(json.dumps({"peft_type": kind}), encoding="utf-8")
    named = {f"base_model.model.{key}": one for key, one in tensors.items()}
    save_file(named, where / "adapter_model.safetensors")
    return where


def test_weights_of_8_bits_are_refused(tmp_path: Path) -> None:
    base = Held({"q.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)})
    adapter = foreign(tmp_path, "SHIRA", {"q.shira_weight": torch.ones(8), **PLACES})
    with pytest.raises(AdapterError, match="float8_e4m3fn, to which no difference can be added"):
        import_(adapter, base, tmp_path / "out")


def test_repeated_places_add_up_as_in_peft(tmp_path: Path) -> None:
    source = foreign(tmp_path, "SHIRA", {"q.shira_weight": torch.ones(8), **PLACES})
    converted = import_(source, Held({"q.weight": torch.zeros(4, 4)}), tmp_path / "out")
    adapter = SparseAdapter.load(tmp_path / "out")
    assert adapter.values("q.weight").tolist() == [8.0] and bool(adapter.mask["q.weight"][0, 0])
    assert converted.losses == []


def test_a_difference_too_small_for_the_weight_is_left_out_and_one_of_0_is_padding(
    tmp_path: Path,
) -> None:
    tensors = {
        "q.supertuning_values": torch.tensor([1.0, 2.0**-40, 0.0, -0.0, 0.0]),
        "q.supertuning_indices": torch.tensor([0, 1, 2, 3, 4]),
    }
    before = torch.ones(4, 4)
    before[1, 0] = -0.0  # adding 0.0 makes it 0.0, which is kept and no difference that was listed
    source = foreign(tmp_path, "SUPERTUNING", tensors)
    converted = import_(source, Held({"q.weight": before}), tmp_path / "out")
    assert converted.k == 2
    assert counted(converted.losses, "are left out") == 1
    assert "1 of 2 values (50 %)" in converted.losses[0]


def test_only_padding_of_our_own_adds_no_sentence(tmp_path: Path) -> None:
    values = torch.cat([torch.ones(1), torch.full((7,), -0.0)])
    source = foreign(tmp_path, "SHIRA", {"q.shira_weight": values, **PLACES})
    converted = import_(source, Held({"q.weight": torch.zeros(4, 4)}), tmp_path / "out")
    assert converted.k == 1 and converted.losses == []


@pytest.mark.parametrize(
    "kind, tensors, error, sentence",
    [
        ("SHIRA", {"q.shira_weight": torch.ones(8)}, AdapterError, "lacks q.shira_indices"),
        (
            "SHIRA",
            {"q.weight": torch.ones(4, 4)},
            AdapterError,
            "which is more than SHiRA's values",
        ),
        (
            "SHIRA",
            {"q.shira_weight": torch.ones(7), **PLACES},
            AdapterFileError,
            r"\(k,\), \(2, k\)",
        ),
        (
            "SHIRA",
            {"q.shira_weight": torch.ones(8), "q.shira_indices": torch.full((2, 8), 4)},
            AdapterFileError,
            "outside its weight",
        ),
        (
            "SHIRA",
            {"q.b.shira_weight": torch.ones(8), "q.b.shira_indices": torch.ones(2, 8)},
            AdapterError,
            "config.json, which is missing",
        ),
        (
            "SUPERTUNING",
            SUPER | {"q.supertuning_lora_A.weight": torch.ones(1, 4)},
            AdapterError,
            "more than SUPERTUNING's",
        ),
        (
            "SUPERTUNING",
            SUPER | {"q.supertuning_indices": torch.tensor([3, 16])},
            AdapterFileError,
            "outside its weight of 16",
        ),
        (
            "SUPERTUNING",
            SUPER | {"q.supertuning_indices": torch.tensor([3])},
            AdapterFileError,
            r"are \(k,\) both",
        ),
        ("IA3", SUPER, AdapterError, "of the type IA3, which is none of SHIRA"),
        ("SPARSEOPD", SUPER, AdapterError, "is a sparseopd adapter already"),
        ("LORA", {"q.lora_X": torch.ones(1)}, AdapterError, "unknown kind"),
    ],
)
def test_foreign_adapters_that_cannot_be_read_are_refused(
    kind: str, tensors: dict[str, Tensor], error: type[AdapterError], sentence: str, tmp_path: Path
) -> None:
    source = foreign(tmp_path, kind, tensors)
    with pytest.raises(error, match=sentence):
        import_(source, Held({"q.weight": torch.ones(4, 4)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layers_the_base_lacks_are_named(tmp_path: Path) -> None:
    make_qwen3().save_pretrained(tmp_path / "base")
    source = foreign(tmp_path, "SUPERTUNING", SUPER)
    with pytest.raises(AdapterMismatchError, match=r"adapts q, which .* has not"):
        import_(source, tmp_path / "base", tmp_path / "out")


def test_settings_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(AdapterFileError, match="no settings but a list"):
        detect(tmp_path)


def test_every_format_says_what_it_is() -> None:
    assert all(one.title for one in FORMATS.values())
    assert [name for name, one in FORMATS.items() if not one.export] == ["sparse", "lt-sft"]
