"""An adapter's update is what PEFT's own merge adds, and anything else is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from sparseopd.errors import PairError
from sparseopd.pairs import open_tensors, tiny
from sparseopd.pairs.lora import LoraUpdate, is_lora_folder
from tests.conftest import make_moe, make_qwen3

FOUR = {"target_modules": ["q_proj", "v_proj", "gate_proj", "down_proj"]}


def untied() -> PreTrainedModel:
    return make_qwen3(tied=False)


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    config.bos_token_id = config.eos_token_id = 0
    return GPT2LMHeadModel(config)


def llava() -> PreTrainedModel:
    student = tiny.folder("tiny-digits") / "student"
    return AutoModelForImageTextToText.from_pretrained(student, dtype=torch.float32)


def adapt(model: PreTrainedModel, folder: Path, **settings: Any) -> Callable[[], PreTrainedModel]:
    """Save `base` and `adapter` in `folder`, all the adapter's tensors random; return PEFT's merge."""
    model.save_pretrained(folder / "base")
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            # PEFT saves an adapted embedding's own weights too, and loads them over the base's.
            if weight.requires_grad or name.endswith("embed_tokens.base_layer.weight"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    peft.save_pretrained(str(folder / "adapter"))
    return peft.merge_and_unload  # pyright: ignore[reportReturnType]  # typed as a tensor


def opened(folder: Path) -> LoraUpdate:
    return LoraUpdate(folder / "adapter", open_tensors(folder / "base"), folder / "base")


CASES: dict[str, tuple[Callable[[], PreTrainedModel], dict[str, Any], int]] = {
    "plain": (make_qwen3, FOUR, 8),
    "rslora": (make_qwen3, {**FOUR, "use_rslora": True}, 8),
    "patterns": (
        make_qwen3,
        {
            **FOUR,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6},
            "alpha_pattern": {r"model\.layers\.\d\.self_attn\.v_proj": 32, "^q_proj": 99},
        },
        8,
    ),
    "embedding": (make_qwen3, {"target_modules": ["embed_tokens"]}, 1),
    "head": (untied, {"target_modules": ["lm_head", "o_proj"]}, 3),
    "modules to save": (
        untied,
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]},
        5,
    ),
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc", "wte"]}, 9),
    "all biases": (
        gpt2,
        {"target_modules": ["c_attn"], "bias": "all", "modules_to_save": ["ln_f"]},
        16,
    ),
    "biases of the layers": (gpt2, {"target_modules": ["c_attn"], "bias": "lora_only"}, 4),
    "names on disk": (
        llava,
        {
            "target_modules": ["k_proj", "linear_1", "patch_embedding"],
            "modules_to_save": ["lm_head"],
        },
        7,
    ),
    "experts": (make_moe, {"target_modules": ["q_proj"], "modules_to_save": ["experts"]}, 26),
}
"""Name of the case -> base, settings, and how many of the base's tensors change."""


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_peft(case: str, tmp_path: Path) -> None:
    make, settings, count = CASES[case]
    merge = adapt(make(), tmp_path, **settings)
    merge().save_pretrained(tmp_path / "merged")
    base, merged = open_tensors(tmp_path / "base"), open_tensors(tmp_path / "merged")
    lora = opened(tmp_path)
    assert lora.keys() == [
        name for name in base.keys() if not torch.equal(base[name], merged[name])
    ]
    assert len(lora.keys()) == count
    for name in lora.keys():
        update, tuned = lora.update(name), merged[name]
        assert update.dtype == torch.float32 and update.shape == base.shape(name)
        # PEFT rounds base + update to float32, by at most half an eps of the sum, and may add up
        # a product of rank 6 in another order; a wrong scaling is off by parts of the update itself.
        rounding = 2 * torch.finfo(torch.float32).eps * float(tuned.abs().max())
        torch.testing.assert_close(update, tuned - base[name], rtol=0, atol=rounding)
        assert float(update.abs().max()) > 1e4 * rounding


class OnlyNames:
    """A base whose values nobody may read."""

    label = "the base"
    revision = folder = None

    def __init__(self, folder: Path) -> None:
        tensors = open_tensors(folder)
        self.keys, self.shape, self.dtype = tensors.keys, tensors.shape, tensors.dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        raise AssertionError(f"{name} was read")

    def flat(self, name: str, start: int, stop: int) -> torch.Tensor:
        raise AssertionError(f"{name} was read")


def test_products_need_no_base_weights(tmp_path: Path) -> None:
    """In any order, any number of times, and not rounded to a half-precision adapter's dtype."""
    adapt(make_qwen3(), tmp_path, **FOUR)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    halves = {key: tensor.bfloat16() for key, tensor in load_file(file).items()}
    save_file(halves, file)
    lora = LoraUpdate(tmp_path / "adapter", OnlyNames(tmp_path / "base"), None)
    for name in [*lora.keys(), *reversed(lora.keys())]:
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        up, down = halves[f"{layer}.lora_B.weight"], halves[f"{layer}.lora_A.weight"]
        assert torch.equal(lora.update(name), up.float() @ down.float() * (6 / 4))
    with pytest.raises(PairError, match=r"does not change model\.norm\.weight"):
        lora.update("model.norm.weight")


def test_a_checkpoint_of_the_body_alone(tmp_path: Path) -> None:
    """As gpt2 on the hub, whose names lack the body's own."""
    adapt(gpt2(), tmp_path, target_modules=["c_fc"])
    expected = opened(tmp_path)
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    save_file({key.removeprefix("transformer."): one for key, one in tensors.items()}, file)
    lora = opened(tmp_path)
    assert lora.keys() == ["h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"]
    for name in lora.keys():
        assert torch.equal(lora.update(name), expected.update(f"transformer.{name}"))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices="),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"target_parameters": ["self_attn.q_proj.weight"]}, "target_parameters="),
    ],
)
def test_other_kinds_of_update(settings: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    adapt(make_qwen3(), tmp_path, target_modules=["v_proj"], **settings)
    with pytest.raises(PairError, match=re.escape(sentence)):
        opened(tmp_path)


def test_other_kinds_of_adapter(tmp_path: Path) -> None:
    model = make_qwen3()
    model.save_pretrained(tmp_path / "base")
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    assert is_lora_folder(tmp_path / "adapter") and not is_lora_folder(tmp_path / "base")
    with pytest.raises(PairError, match="of the type IA3, not LORA"):
        opened(tmp_path)


def test_a_bias_of_the_matrices(tmp_path: Path) -> None:
    adapt(gpt2(), tmp_path, target_modules=["c_fc"], lora_bias=True)
    with pytest.raises(PairError, match=r"unknown kind, .*h\.0\.mlp\.c_fc\.lora_B\.bias"):
        opened(tmp_path)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "add, drop, sentence",
    [
        ({f"{Q}.lora_magnitude_vector": (32,)}, "", f"unknown kind, {Q}.lora_magnitude_vector"),
        ({"model.norm.weight": (32,)}, "", "unknown kind, model.norm.weight"),
        ({"base_model.model.model.other": (32,)}, "", "changes model.other .* has no such tensor"),
        ({"base_model.model.model.norm.weight": (33,)}, "", r"norm.weight .*\(33,\).* \(32,\)"),
        ({f"{Q}.lora_A.weight": (4, 31)}, "", r"q_proj.weight .*\(32, 31\).* \(32, 32\)"),
        ({f"{Q}.lora_A.weight": (0,)}, "", r"shapes \(32, 4\) and \(0,\)"),
        ({f"{Q}.lora_A.weight": (3, 32), f"{Q}.lora_B.weight": (32, 3)}, "", "says rank 4"),
        ({}, f"{Q}.lora_B.weight", r"shapes \(\) and \(4, 32\)"),
        ({}, f"{Q}.lora_A.weight", r"shapes \(32, 4\) and \(\)"),
    ],
)
def test_tensors_that_do_not_fit(
    add: dict[str, tuple[int, ...]], drop: str, sentence: str, tmp_path: Path
) -> None:
    adapt(make_qwen3(), tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file) | {key: torch.ones(shape) for key, shape in add.items()}
    save_file({key: tensor for key, tensor in tensors.items() if key != drop}, file)
    with pytest.raises(PairError, match=sentence):
        opened(tmp_path)


def test_a_tied_head(tmp_path: Path) -> None:
    adapt(make_qwen3(), tmp_path, target_modules=["lm_head"])
    with pytest.raises(PairError, match="a head tied to the embedding has no update of its own"):
        opened(tmp_path)


def test_another_base(tmp_path: Path) -> None:
    adapt(gpt2(), tmp_path, target_modules=["c_fc"])
    make_qwen3().save_pretrained(tmp_path / "base")
    with pytest.raises(PairError, match="no such tensor: give the base it was trained on"):
        opened(tmp_path)
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(PairError, match="cannot be built"):
        opened(tmp_path)


def test_names_that_only_the_folder_explains(tmp_path: Path) -> None:
    adapt(llava(), tmp_path, target_modules=["q_proj"])
    with pytest.raises(PairError, match="as a checkpoint folder"):
        LoraUpdate(tmp_path / "adapter", open_tensors(tmp_path / "base"), None)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    adapt(make_qwen3(), tmp_path, **FOUR)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"not safetensors")
    with pytest.raises(PairError, match="cannot read the adapter's weights"):
        opened(tmp_path)
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(
        PairError, match=r"convert adapter_model\.bin to adapter_model\.safetensors"
    ):
        opened(tmp_path)
    for text in ("{", "[]", json.dumps({"peft_type": "NONE"})):
        (tmp_path / "adapter" / "adapter_config.json").write_text(text)
        with pytest.raises(PairError, match="cannot read the settings"):
            opened(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"r": 0}, {"lora_alpha": "8"}, {"rank_pattern": {"q_proj": -1}}], ids=str
)
def test_ranks_and_scalings_that_are_no_numbers(settings: dict[str, Any], tmp_path: Path) -> None:
    adapt(make_qwen3(), tmp_path, **FOUR)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    with pytest.raises(PairError, match="is no positive number"):
        opened(tmp_path)
