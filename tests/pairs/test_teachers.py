"""Teachers held in few bits, where they run, and how closely they still speak as they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from accelerate import Accelerator
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sparseopd.errors import PairError
from sparseopd.pairs import (
    load_model,
    load_processor,
    match_teacher,
    quantization,
    resolve_path,
    teacher_device,
)
from sparseopd.pairs.encoding import encode
from sparseopd.recipe import Model, Teacher
from tests.conftest import SIZES, make_qwen3

ARITHMETIC, DIGITS = "bundled:tiny-arithmetic/teacher", "bundled:tiny-digits/teacher"
LAYERS = {"8bit": Linear8bitLt, "4bit": Linear4bit}
BITS = list(LAYERS)
CPU = torch.device("cpu")


def save(folder: Path, *, tied: bool = True, width: int = 64) -> str:
    """A random Qwen3 of some width."""
    torch.manual_seed(0)
    sizes = {**SIZES, "hidden_size": width, "intermediate_size": 2 * width, "head_dim": width // 2}
    config = Qwen3Config(**sizes, tie_word_embeddings=tied, initializer_range=0.1)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def quantized_layers(model: torch.nn.Module, bits: str) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, LAYERS[bits])]


@torch.no_grad()
def log_probs(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    return model(**inputs).logits.float().log_softmax(dim=-1)


def divergence(of: torch.Tensor, to: torch.Tensor) -> float:
    """Mean KL in nats."""
    return (of.exp() * (of - to)).sum(dim=-1).mean().item()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("bits", "close"), [("8bit", 1e-4), ("4bit", 3e-3)])
def test_a_quantized_teacher_speaks_nearly_as_before(dtype: Any, bits: Any, close: float) -> None:
    """On prompts it knows. Its width of 341 also divides by none of bitsandbytes' block sizes."""
    processor = load_processor(Model(path=ARITHMETIC))
    rows = [{"prompt": [{"role": "user", "content": f"1{n}3+4{n}6="}]} for n in range(8)]
    inputs = encode(processor, rows)
    whole = load_model(Teacher(path=ARITHMETIC))
    teacher = load_model(Teacher(path=ARITHMETIC, dtype=dtype, quantization=bits))
    assert len(quantized_layers(teacher, bits)) == 21 and not teacher.training
    expected, found = (log_probs(model, **inputs)[:, -1] for model in (whole, teacher))
    assert not torch.equal(expected, found)
    assert divergence(expected, found) < close
    assert expected.argmax(dim=-1).equal(found.argmax(dim=-1))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_head_stays_a_matrix_of_numbers(bits: Any, tied: bool, tmp_path: Path) -> None:
    path = save(tmp_path, tied=tied)
    whole, teacher = load_model(Model(path=path)), load_model(Teacher(path=path, quantization=bits))
    assert len(quantized_layers(teacher, bits)) == 2 * 7
    head: Any = teacher.get_output_embeddings()
    assert head.weight.equal(whole.get_output_embeddings().weight)  # pyright: ignore
    assert (head.weight is teacher.get_input_embeddings().weight) == tied  # pyright: ignore
    tokens = torch.arange(40)[None]
    expected, found = (log_probs(model, input_ids=tokens) for model in (whole, teacher))
    assert divergence(expected, found) < 0.2 * divergence(expected, found.roll(1, dims=1))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_of_a_vision_teacher_too(bits: Any, tied: bool, tmp_path: Path) -> None:
    path = DIGITS
    if tied:
        config = AutoConfig.from_pretrained(resolve_path(DIGITS))
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
        LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
        path = str(tmp_path)
    teacher = load_model(Teacher(path=path, quantization=bits, dtype="bfloat16"))
    head: Any = teacher.get_output_embeddings()
    assert head.weight.dtype == torch.bfloat16 and type(head) is torch.nn.Linear
    assert (head.weight is teacher.get_input_embeddings().weight) == tied  # pyright: ignore
    assert any("vision" in name for name in quantized_layers(teacher, bits))


@pytest.mark.parametrize("bits", BITS)
def test_it_stays_where_it_was_made(bits: Any, tmp_path: Path) -> None:
    """accelerate, which the trainer prepares models with, lets it be."""
    path = save(tmp_path)
    teacher: Any = load_model(Teacher(path=path, quantization=bits), device="cpu")
    assert teacher.device == CPU
    assert Accelerator(cpu=True).prepare_model(teacher, evaluation_mode=True) is teacher
    with pytest.raises(ValueError, match="cannot cast"):
        teacher.to(torch.float16)


@pytest.mark.parametrize("bits", BITS)
def test_padding_rows_of_a_quantized_teacher_are_dropped(bits: Any, tmp_path: Path) -> None:
    """The only thing done to a teacher's weights after loading."""
    teacher = load_model(Teacher(path=save(tmp_path), quantization=bits))
    student = Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "vocab_size": 36}))
    before = log_probs(teacher, input_ids=torch.arange(9)[None])[..., :36].log_softmax(dim=-1)
    assert match_teacher(student, teacher) == 4
    after = log_probs(teacher, input_ids=torch.arange(9)[None])
    assert torch.allclose(after, before, atol=1e-5)


def test_four_bits_compute_in_the_models_dtype(tmp_path: Path) -> None:
    """Fails where bitsandbytes renames the switch; its packed layers would compute in bfloat16."""
    teacher = load_model(Teacher(path=save(tmp_path), quantization="4bit"))
    layers = [layer for layer in teacher.modules() if isinstance(layer, Linear4bit)]
    assert "support_avx512bf16_for_cpu" in vars(Linear4bit(64, 64))
    log_probs(teacher, input_ids=torch.arange(9)[None])
    for layer in layers:
        assert layer.compute_dtype == torch.float32
        assert layer.weight.quant_state.dtype == torch.float32
        assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested


def test_students_have_no_bits() -> None:
    assert not hasattr(Model(path="x"), "quantization")


def test_a_checkpoint_stored_in_few_bits(tmp_path: Path) -> None:
    teacher = load_model(Teacher(path=save(tmp_path / "whole"), quantization="4bit"))
    teacher.save_pretrained(tmp_path / "small")
    again = load_model(Model(path=str(tmp_path / "small")))
    tokens = torch.arange(9)[None]
    assert log_probs(again, input_ids=tokens).equal(log_probs(teacher, input_ids=tokens))
    with pytest.raises(
        PairError, match=r"8bit cannot be used on .*small, whose weights are stored"
    ):
        load_model(Teacher(path=str(tmp_path / "small"), quantization="8bit"))


def test_a_quantized_head_is_refused(tmp_path: Path) -> None:
    settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["nothing"])
    path = save(tmp_path / "whole", tied=False)
    everything = AutoModelForCausalLM.from_pretrained(path, quantization_config=settings)
    everything.save_pretrained(tmp_path / "small")
    with pytest.raises(PairError, match=r"the output head of .*small is quantized"):
        load_model(Model(path=str(tmp_path / "small")))


def test_without_bitsandbytes_or_on_a_foreign_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_qwen3().save_pretrained(tmp_path)
    teacher = Teacher(path=str(tmp_path), quantization="8bit")
    with monkeypatch.context() as patch:
        patch.setattr(bitsandbytes, "supported_torch_devices", {"cuda", "xpu"})
        with pytest.raises(PairError, match="cannot be used on cpu: bitsandbytes serves cuda, xpu"):
            load_model(teacher, device="cpu")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(PairError, match=r"8bit needs bitsandbytes.*: pip install bitsandbytes"):
        load_model(teacher)


def test_an_accelerator_goes_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)
    assert quantization.placement(torch.device("cuda")) == {"device_map": {"": "cuda:1"}}
    assert quantization.placement(torch.device("cuda:0")) == {"device_map": {"": "cuda:0"}}
    assert quantization.placement(CPU) == {"device_map": {"": "cpu"}}


def test_where_a_teacher_runs() -> None:
    meta = torch.device("meta")
    assert teacher_device(Teacher(path="x"), meta) == meta
    assert teacher_device(Teacher(path="x", device="cpu"), meta) == CPU
    for wrong in ("cuda:99", "gpu"):
        with pytest.raises(PairError, match=f"the device '{wrong}' cannot be used here: use cpu"):
            teacher_device(Teacher(path="x", device=wrong), CPU)
