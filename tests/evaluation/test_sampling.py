"""Sampling is reproducible, common to all arms, and reads prompts as training does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedTokenizerFast
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.distillation_trainer import DistillationTrainer

from sparseopd.errors import DataError
from sparseopd.pairs import load_model, load_processor
from sparseopd.pairs.encoding import encode
from sparseopd.pairs.sampling import Completion, generation_config, sample
from sparseopd.recipe import Data, Model, Rollout
from sparseopd.tasks import load_prompts


def draw(model: Any, processor: Any, prompts: Dataset, **settings: Any) -> list[Completion]:
    rollout = settings.pop("rollout", Rollout(max_new_tokens=10))
    options = {"samples": 2, "batch_size": 5, "seed": 3, **settings}
    return sample(model, processor, prompts, rollout=rollout, **options)


def ids(completions: list[Completion]) -> list[list[int]]:
    return [completion.ids.tolist() for completion in completions]


def trl_prompt_ids(
    processor: Any, prompts: list[Any], vision: bool, template: dict[str, Any] | None = None
) -> list[list[int]]:
    """What TRL's trainer would train on."""
    trainer: Any = SimpleNamespace(
        processing_class=processor,
        _is_vlm=vision,
        tools=None,
        chat_template=None,
        chat_template_kwargs=template or {},
    )
    return DistillationTrainer._tokenize_prompts(trainer, prompts)[0]


def unpadded(encoded: dict[str, torch.Tensor]) -> list[list[int]]:
    pairs = zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def test_identical_models_write_identical_completions(make_model, tokenizer, prompts) -> None:
    first = draw(make_model(0), tokenizer, prompts)
    assert ids(first) == ids(draw(make_model(0), tokenizer, prompts))
    assert ids(first) != ids(draw(make_model(1), tokenizer, prompts))
    assert ids(first) != ids(draw(make_model(0), tokenizer, prompts, seed=4))


def test_samples_of_a_prompt_follow_each_other_and_differ(make_model, tokenizer, prompts) -> None:
    completions = draw(make_model(), tokenizer, prompts, samples=3)
    assert [completion.prompt for completion in completions] == [n // 3 for n in range(18)]
    assert ids(completions[:1]) != ids(completions[1:2])


def test_the_global_generator_is_left_alone(make_model, tokenizer, prompts) -> None:
    model = make_model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draw(model, tokenizer, prompts)
    assert torch.equal(torch.rand(3), expected)


def test_progress_counts_completions(make_model, tokenizer, prompts) -> None:
    calls: list[tuple[int, int]] = []
    draw(make_model(), tokenizer, prompts, done=lambda *call: calls.append(call))
    assert calls == [(5, 12), (10, 12), (12, 12)]


def test_a_completion_ends_with_the_first_of_all_ends(make_model, tokenizer, prompts) -> None:
    model = make_model()
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcdefghij"]
    model.generation_config.eos_token_id = letters
    ends = {*letters, tokenizer.eos_token_id}
    completions = draw(model, tokenizer, prompts, samples=6)
    finished = [item for item in completions if not item.truncated]
    assert finished and len(finished) < len(completions)
    for item in completions:
        *before, last = item.ids.tolist()
        assert not ends & set(before)
        assert item.truncated == (last not in ends)
        assert len(item.ids) == 10 or not item.truncated
        shown = item.ids if item.truncated else item.ids[:-1]
        assert item.text == tokenizer.decode(shown, skip_special_tokens=True)


def test_padding_does_not_change_what_is_written(make_model, tokenizer, prompts) -> None:
    cold = Rollout(max_new_tokens=10, temperature=1e-5)  # so that the draws do not matter
    together = draw(make_model(), tokenizer, prompts, samples=1, batch_size=6, rollout=cold)
    alone = draw(make_model(), tokenizer, prompts, samples=1, batch_size=1, rollout=cold)
    assert ids(together) == ids(alone)


def test_the_rollout_settings_decide_and_not_the_models_own(make_model, tokenizer, prompts) -> None:
    model = make_model()
    expected = ids(draw(model, tokenizer, prompts))
    model.generation_config.update(top_k=1, temperature=0.1, repetition_penalty=9.0)
    assert ids(draw(model, tokenizer, prompts)) == expected
    narrow = Rollout(max_new_tokens=10, top_k=1)
    first, second, *_ = ids(draw(model, tokenizer, prompts, rollout=narrow))
    assert first == second


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_are_tokenized_as_in_training(
    chat: bool, tokenizer: PreTrainedTokenizerFast, prompts: Dataset
) -> None:
    cells = prompts["prompt"][:]
    if not chat:
        cells = [cell[0]["content"] for cell in cells]
    encoded = encode(tokenizer, [{"prompt": cell} for cell in cells])
    assert encoded.keys() == {"input_ids", "attention_mask"}
    assert unpadded(encoded) == trl_prompt_ids(tokenizer, cells, vision=False)
    assert encoded["attention_mask"][:, -1].all()  # padded on the left


def test_images_need_a_processor(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"prompt": [{"role": "user", "content": "?"}], "images": [Image.new("L", (8, 8))]}
    with pytest.raises(DataError, match="only a tokenizer cannot read"):
        encode(tokenizer, [row])


def test_vision_prompts_are_encoded_as_in_training() -> None:
    processor = load_processor(Model(path="bundled:tiny-digits/student"))
    data = Data(train="bundled:tiny-digits/test.parquet", holdout=4)
    test = load_prompts(data, chat=True).test
    rows: list[Any] = [test[place] for place in range(4)]
    encoded = encode(processor, rows)
    messages = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
    assert unpadded(encoded) == trl_prompt_ids(processor, messages, vision=True)
    assert len(encoded["pixel_values"]) == 4


def test_the_bundled_vision_teacher_reads_digits() -> None:
    """Only pictures that reach the model, each beside its own question, give this accuracy."""
    source = Model(path="bundled:tiny-digits/teacher")
    model, processor = load_model(source), load_processor(source)
    data = Data(train="bundled:tiny-digits/test.parquet", holdout=40)
    prompts = load_prompts(data, chat=True)
    assert prompts.grader is not None and prompts.has_images
    rollout = Rollout(max_new_tokens=8)
    completions = draw(model, processor, prompts.test, samples=2, batch_size=16, rollout=rollout)
    answers = prompts.test["answer"]
    right = [prompts.grader(item.text, answers[item.prompt]) for item in completions]
    assert sum(right) / len(right) >= 0.9
    assert generation_config(model, processor, rollout).suppress_tokens == [
        model.config.image_token_id
    ]
    assert not any(model.config.image_token_id in item.ids for item in completions)
