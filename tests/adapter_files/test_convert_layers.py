"""What converters for linear layers hold, refuse and state, without PEFT."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import export, import_, lora, supertuning
from sparseopd.adapter_files.convert.differences import Difference
from sparseopd.adapter_files.convert.layers import Architecture, Layer
from sparseopd.adapter_files.extract import extract
from sparseopd.errors import AdapterError, AdapterMismatchError
from sparseopd.pairs import parameters
from tests.adapter_files.converting import Trio, bits, contents, counted, sparse_tuned
from tests.conftest import make_moe, make_qwen3
from tests.masks.held import Held

PEFT = ["shira", "supertuning", "lora"]
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return sparse_tuned(tmp_path_factory.mktemp("trio"), make_qwen3(), torch.bfloat16)


@pytest.mark.parametrize("format", PEFT)
def test_embeddings_norms_and_experts_are_counted_as_lost(format: str, tmp_path: Path) -> None:
    trio = sparse_tuned(tmp_path, make_moe())
    adapter = trio.open()
    converted = export(adapter, trio.base, tmp_path / "out", format)
    linear = [name for name in adapter.touched if "self_attn" in name and "norm" not in name]
    kept = sum(map(adapter.count, [*linear, "lm_head.weight"]))
    assert converted.k == kept
    assert f"{adapter.count() - kept:,} of {adapter.count():,} values" in converted.losses[0]
    others = len(adapter.touched) - len(linear) - 1
    assert f"{others} tensors: model.embed_tokens.weight" in converted.losses[0]
    assert "experts.0.down_proj.weight" in converted.losses[0]


def test_a_tied_head_is_no_linear_layer(trio: Trio, tmp_path: Path) -> None:
    adapter = trio.open()
    converted = export(adapter, trio.base, tmp_path / "out", "shira")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert "lm_head" not in config["target_modules"] and len(config["target_modules"]) == 14
    assert adapter.count("model.embed_tokens.weight") > 0
    assert "model.embed_tokens.weight" in converted.losses[0]


@pytest.mark.parametrize("format", PEFT)
def test_a_model_in_memory_gives_the_same_bytes_as_its_folder(
    trio: Trio, format: str, tmp_path: Path
) -> None:
    model = type(make_qwen3()).from_pretrained(trio.base, dtype=torch.bfloat16)
    for base, name in ((trio.base, "a"), (model, "b")):
        export(trio.open(), base, tmp_path / name, format)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_base_held_in_float32_is_measured_as_such(trio: Trio, tmp_path: Path) -> None:
    """In float32 a difference of two bfloat16 numbers is nearly always exact."""
    model = type(make_qwen3()).from_pretrained(trio.base, dtype=torch.float32)
    narrow = export(trio.open(), trio.base, tmp_path / "narrow", "supertuning")
    wide = export(trio.open(), model, tmp_path / "wide", "supertuning")
    assert "held as float32" in wide.losses[1]
    lost = [counted(one.losses, "come out otherwise") for one in (wide, narrow)]
    assert 0 < lost[0] < lost[1]


@pytest.mark.parametrize("format", ["shira", "supertuning"])
def test_small_updates_survive_the_sum(format: str, tmp_path: Path) -> None:
    """A step of training moves a bfloat16 weight by a rounding step or two: those come out exact."""
    model = make_qwen3().bfloat16()
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for weight in model.parameters():
            moved = torch.rand(weight.shape) < 0.1
            bits(weight.data)[moved] += 1
    model.save_pretrained(tmp_path / "tuned")
    extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter")
    adapter = SparseAdapter.load(tmp_path / "adapter")
    converted = export(adapter, tmp_path / "base", tmp_path / "out", format)
    assert "linear layers alone" in converted.losses[0]
    assert counted(converted.losses, "change nothing") == converted.padding > 0
    assert len(converted.losses) == 2
    back = import_(tmp_path / "out", tmp_path / "base", tmp_path / "back")
    assert back.losses == [] and back.k == converted.k
    again = SparseAdapter.load(back.folder)
    assert again.touched == [name for name in adapter.touched if "proj" in name]
    for name in again.touched:
        assert torch.equal(adapter.mask[name], again.mask[name])
        assert torch.equal(bits(adapter.values(name)), bits(again.values(name)))


def test_shira_refuses_what_one_rank_cannot_hold(tmp_path: Path) -> None:
    trio = sparse_tuned(tmp_path, make_qwen3(), density=0.9, only="self_attn")
    with pytest.raises(
        AdapterError,
        match=r"_proj\.weight needs r = 1\d, and .* of 16 × 32 allows 10; convert to sup",
    ):
        export(trio.open(), trio.base, tmp_path / "out", "shira")
    assert not (tmp_path / "out").exists()
    assert export(trio.open(), trio.base, tmp_path / "out", "supertuning").padding < 1000


def test_shira_gives_every_layer_one_rank(trio: Trio, tmp_path: Path) -> None:
    export(trio.open(), trio.base, tmp_path / "out", "shira")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    base, adapter = contents(trio.base), trio.open()
    rooms = []
    for module in config["target_modules"]:
        values, indices = (
            stored[f"base_model.model.{module}.{part}"]
            for part in ("shira_weight", "shira_indices")
        )
        shape, k = base[f"{module}.weight"].shape, adapter.count(f"{module}.weight")
        assert values.shape == (config["r"] * sum(shape),) and values.dtype == torch.float32
        assert indices.shape == (2, len(values)) and indices.dtype == torch.int32
        flat = (indices[0] * shape[1] + indices[1])[:k]
        assert bool((flat.diff() > 0).all())
        assert not values[k:].any()
        rooms.append(-(-k // sum(shape)))
    assert config["r"] == max(rooms)
    assert config["mask_type"] != "random"


def test_a_conv1d_is_no_linear_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    trio = sparse_tuned(tmp_path, GPT2LMHeadModel(config))
    with pytest.raises(
        AdapterError, match=r"c_attn.* in no linear layer, and LoRA .* convert it to coo"
    ):
        export(trio.open(), trio.base, tmp_path / "out", "lora")


def test_a_weight_that_loading_reorders_is_left_out(
    trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = parameters.checkpoint_pieces

    def turned(model: Any, name: str, tensor: Tensor) -> dict[str, Tensor]:
        pieces = split(model, name, tensor)
        return {one: part.T if "o_proj" in one else part for one, part in pieces.items()}

    monkeypatch.setattr(parameters, "checkpoint_pieces", turned)
    export(trio.open(), trio.base, tmp_path / "out", "shira")
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert not any("o_proj" in key for key in stored)
    assert f"{Q}.shira_weight" in stored


def test_targets_match_no_other_module() -> None:
    names = ["lm_head", "model", "model.q", "model.vision.lm_head"]
    assert Architecture({}, names).targets(["model.q"]) == ["model.q"]
    pattern = Architecture({}, names).targets(["lm_head", "model.q"])
    assert isinstance(pattern, str)
    assert [one for one in names if re.fullmatch(pattern, one)] == ["lm_head", "model.q"]


@given(
    old=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8),
    extra=st.integers(0, 9),
)
def test_padding_adds_up_to_nothing(old: list[float], extra: int) -> None:
    before = torch.tensor(old)
    found = Difference(torch.arange(len(old)), before, before.flip(0))
    positions, values = found.padded(len(old) + extra)
    once = before.clone().index_add_(0, found.positions, found.delta)
    padded = before.clone().index_add_(0, positions, values)
    assert len(values) == len(old) + extra
    assert torch.equal(bits(once), bits(padded))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(0, 1)), min_size=1, max_size=6))
def test_one_sparsity_gives_every_layer_room(sizes: list[tuple[int, float]]) -> None:
    layers = [
        Layer(str(place), str(place), 1, numel, max(1, round(numel * density)))
        for place, (numel, density) in enumerate(sizes)
    ]
    sparsity = supertuning._sparsity(layers)
    assert 0 <= sparsity < 1
    spare = [int(layer.numel * (1 - sparsity)) - layer.k for layer in layers]
    assert 0 <= min(spare) <= 1
    assert all(int(layer.numel * (1 - sparsity)) <= layer.numel for layer in layers)


def test_supertuning_refuses_a_weight_beyond_int32(
    trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supertuning, "LARGEST", 1000)
    with pytest.raises(AdapterError, match="reach 1,000: convert to shira or coo"):
        export(trio.open(), trio.base, tmp_path / "out", "supertuning")


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4), (6, 6)])
@pytest.mark.parametrize("exact", [True, False])
def test_factors_are_the_best_product_of_their_rank(
    shape: tuple[int, int], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "EXACT", 1024 if exact else 0)
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(delta)
    for rank in (1, 2, 7):
        up, down = lora.factors(delta, rank)
        assert up.shape == (shape[0], rank) and down.shape == (rank, shape[1])
        best = float(singular[rank:].norm()) if rank < len(singular) else 0.0
        assert float((delta - up @ down).norm()) == pytest.approx(best, abs=1e-5)


def test_a_lora_of_full_rank_leaves_nothing_out(tmp_path: Path) -> None:
    trio = sparse_tuned(tmp_path, make_qwen3())
    converted = export(trio.open(), trio.base, tmp_path / "lora", "lora", rank=32)
    assert max(converted.residuals.values()) < 1e-5
    lower = export(trio.open(), trio.base, tmp_path / "lower", "lora", rank=2)
    assert min(lower.residuals.values()) > 0.1
    assert re.search(r"products of rank 2 leave out \d\d\.\d % of the update", lower.losses[1])
    stored = load_file(tmp_path / "lower" / "adapter_model.safetensors")
    assert stored[f"{Q}.lora_A.weight"].shape == (2, 32)


@pytest.mark.parametrize(
    "format, options, sentence",
    [
        ("lt-sft", {}, "cannot be converted to lt-sft: choose shira"),
        ("sparse", {}, "cannot be converted to sparse"),
        ("tar", {}, "there is no format 'tar'"),
        ("coo", {"rank": 4}, "a rank of 4 was given, and coo has none"),
        ("lora", {"rank": 0}, "a rank of 0"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    trio: Trio, format: str, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=sentence):
        export(trio.open(), trio.base, tmp_path / "out", format, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", PEFT)
def test_another_base_or_none_is_refused(trio: Trio, format: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatchError, match="does not fit"):
        export(trio.open(), trio.tuned, tmp_path / "out", format)
    with pytest.raises(AdapterError, match="no base was given"):
        export(trio.open(), None, tmp_path / "out", format)
    with pytest.raises(AdapterError, match=r"config\.json, which is missing"):
        export(trio.open(), Held(contents(trio.base)), tmp_path / "out", format)


def test_values_that_are_not_finite_have_no_product(tmp_path: Path) -> None:
    model = make_qwen3()
    model.save_pretrained(tmp_path / "base")
    model.get_parameter("model.layers.0.self_attn.q_proj.weight").data[0, 0] = torch.inf
    model.save_pretrained(tmp_path / "tuned")
    extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"q_proj\.weight has values that are not finite"):
        export(SparseAdapter.load(tmp_path / "adapter"), tmp_path / "base", tmp_path / "o", "lora")


def test_masters_are_counted_as_lost(tmp_path: Path) -> None:
    model = make_qwen3()
    model.bfloat16().save_pretrained(tmp_path / "base")
    tuned = make_qwen3(seed=1)
    tuned.save_pretrained(tmp_path / "tuned")
    extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter", masters=True)
    adapter = SparseAdapter.load(tmp_path / "adapter")
    converted = export(adapter, None, tmp_path / "out", "coo")
    assert converted.losses == [f"the float32 masters of {adapter.count():,} values are left out"]
