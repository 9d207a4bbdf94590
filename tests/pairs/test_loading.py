"""Models load, and pairs that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, ProcessorMixin, Qwen3Config, Qwen3ForCausalLM

from sparseopd.errors import PairError
from sparseopd.pairs import (
    check_images,
    check_vocabulary,
    has_chat_template,
    load_model,
    load_processor,
    match_teacher,
    pick_device,
)
from sparseopd.recipe import Model
from tests.conftest import SIZES, make_qwen3

ARITHMETIC, DIGITS = "bundled:tiny-arithmetic/student", "bundled:tiny-digits/student"


def test_the_checkpoints_config_decides_the_class() -> None:
    assert type(load_model(Model(path=ARITHMETIC))).__name__ == "Qwen3ForCausalLM"
    assert type(load_model(Model(path=DIGITS))).__name__ == "LlavaForConditionalGeneration"
    assert isinstance(load_processor(Model(path=DIGITS)), ProcessorMixin)
    processor = load_processor(Model(path=ARITHMETIC))
    assert isinstance(processor, PreTrainedTokenizerFast) and processor.padding_side == "left"
    assert has_chat_template(processor)


def test_dtype_and_device() -> None:
    model = load_model(Model(path=ARITHMETIC, dtype="bfloat16"), device="cpu")
    assert model.dtype == torch.bfloat16 and not model.training
    with pytest.raises(PairError, match="device 'cuda:99' cannot be used"):
        pick_device("cuda:99")


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    for path, sentence in [
        (str(tmp_path / "absent"), "there is no model folder"),
        (str(tmp_path), "config.json is missing"),
        ("bundled:tiny-arithmetic/pupil", "has no 'pupil'"),
        ("bundled:tiny-nothing/student", "tiny-nothing"),
    ]:
        with pytest.raises(Exception, match=sentence) as caught:
            load_model(Model(path=path))
        assert "\n" not in str(caught.value)


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    model = make_qwen3(tied=False)
    weights = model.state_dict()
    del weights["lm_head.weight"]
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(
        PairError, match=r"lacks 1 weights of its architecture, among them lm_head.weight"
    ):
        load_model(Model(path=str(tmp_path)))


def test_different_vocabularies_are_refused() -> None:
    one, other = (load_processor(Model(path=ARITHMETIC)) for _ in range(2))
    check_vocabulary(one, other)
    with pytest.raises(PairError, match=r"different vocabularies: \d+ of \d+ tokens differ"):
        check_vocabulary(one, load_processor(Model(path=DIGITS)))
    other.eos_token = "<|pad|>"  # pyright: ignore
    with pytest.raises(PairError, match=r"end a sequence with different tokens"):
        check_vocabulary(one, other)


def test_a_teachers_padding_rows_are_dropped_and_a_students_refused() -> None:
    def widened() -> Qwen3ForCausalLM:
        return Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "vocab_size": 48}))

    wider = widened()
    tokens = torch.arange(8)[None]
    before = wider(tokens).logits[..., :40]
    assert match_teacher(make_qwen3(), wider) == 8
    assert torch.allclose(wider(tokens).logits, before, atol=1e-6)
    with pytest.raises(PairError, match="48 rows and the teacher's only 40"):
        match_teacher(widened(), make_qwen3())


def test_pickles_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    model = make_qwen3()
    model.save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:1000])
    with pytest.raises(PairError, match="cannot load the model"):
        load_model(Model(path=str(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PairError, match="cannot load the model"):
        load_model(Model(path=str(tmp_path)))


def test_images_need_a_student_that_sees() -> None:
    check_images(True, load_processor(Model(path=DIGITS)))
    with pytest.raises(PairError, match="cannot see them"):
        check_images(True, load_processor(Model(path=ARITHMETIC)))
