"""Sampling with vLLM, against a stand-in that records what it is asked.

vLLM itself was not run: these tests hold what is sent to it, and what becomes of what it returns.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from sparseopd.errors import RequestError
from sparseopd.evaluation import arms_for, evaluate
from sparseopd.evaluation.engines import Request, check_engine, sample_with_vllm
from sparseopd.pairs import load_processor, tiny
from sparseopd.pairs.encoding import encode
from sparseopd.recipe import Model, Recipe, Rollout
from sparseopd.tasks import load_prompts
from tests.evaluation.conftest import TOKENIZER

END = TOKENIZER.eos_token_id


@dataclass
class Asked:
    """What the stand-in was called with."""

    engines: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)


def written(place: int, sample: int) -> list[int]:
    """What the stand-in writes: the first sample ends, the others are cut."""
    ids = TOKENIZER(str(place))["input_ids"]
    return [*ids, END] if sample == 0 else [*ids, *ids, *ids]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    record = Asked()

    class LLM:
        def __init__(self, **options: Any) -> None:
            record.engines.append(options)

        def generate(self, prompts: Any, settings: Any, use_tqdm: bool) -> list[Any]:
            record.prompts, record.settings = prompts, settings
            return [
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(token_ids=written(place, sample))
                        for sample in range(settings[place]["n"])
                    ]
                )
                for place in range(len(prompts))
            ]

    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return record


def test_the_recipe_reaches_vllm(asked: Asked, recipe: Recipe, prompts: Dataset) -> None:
    model = Model(path=recipe.student.path, dtype="bfloat16")
    rollout = Rollout(max_new_tokens=7, temperature=0.5, top_p=0.9, top_k=5)
    request = Request(processor=TOKENIZER, prompts=prompts, rollout=rollout, samples=2, seed=100)
    completions = sample_with_vllm(model, request)
    (engine,) = asked.engines
    assert engine["model"] == recipe.student.path and engine["dtype"] == "bfloat16"
    assert engine["trust_remote_code"] is False
    first = {**asked.settings[0]}
    assert first.pop("stop_token_ids") == [END]
    assert first == {
        "n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_tokens": 7, "seed": 100,
        "logit_bias": None,
    }  # fmt: skip
    seeds = [setting["seed"] for setting in asked.settings]
    assert seeds == [100 + 2 * place for place in range(len(prompts))]
    for row, prompt in zip(prompts, asked.prompts, strict=True):
        own = encode(TOKENIZER, [dict(row)])["input_ids"][0].tolist()
        assert prompt == {"prompt_token_ids": own}
    assert [one.prompt for one in completions] == [n for n in range(len(prompts)) for _ in "ab"]
    assert completions[2].ids.tolist() == written(1, 0) and completions[2].text == "1"
    assert not completions[2].truncated
    assert completions[3].text == "111" and completions[3].truncated


def test_what_comes_after_an_end_is_cut(
    asked: Asked, recipe: Recipe, prompts: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = TOKENIZER("7")["input_ids"]
    monkeypatch.setattr(sys.modules[__name__], "written", lambda *_: [*ids, END, *ids])
    request = Request(processor=TOKENIZER, prompts=prompts, rollout=Rollout(), samples=1, seed=0)
    completion = sample_with_vllm(recipe.student, request)[0]
    assert completion.ids.tolist() == [*ids, END] and completion.text == "7"


def test_pictures_go_beside_prompts_with_one_mark_each(asked: Asked) -> None:
    model = Model(path="bundled:tiny-digits/student")
    processor = load_processor(model)
    recipe = tiny.folder("tiny-digits") / "test.parquet"
    from sparseopd.recipe import Data

    rows = load_prompts(Data(train=str(recipe), test=str(recipe)), chat=True).test.select(range(2))
    sample_with_vllm(
        model,
        Request(processor=processor, prompts=rows, rollout=Rollout(), samples=1, seed=0),
    )
    assert asked.engines[0]["limit_mm_per_prompt"] == {"image": 1}
    image = processor.image_token_id  # type: ignore[union-attr]
    assert asked.settings[0]["logit_bias"] == {image: -100.0}
    for row, prompt in zip(rows, asked.prompts, strict=True):
        assert prompt["prompt_token_ids"].count(image) == 1  # vLLM expands it
        (picture,) = prompt["multi_modal_data"]["image"]
        assert np.array_equal(np.array(picture), np.array(row["images"][0]))


def test_grades_and_kl_come_from_its_tokens(asked: Asked, recipe: Recipe, tmp_path: Path) -> None:
    recipe.data.grader = "numeric"
    arms = arms_for([], recipe, source=True, teacher=True)
    scores = evaluate(arms, recipe, engine="vllm")
    assert [engine["model"] for engine in asked.engines] == [
        recipe.student.path, recipe.teacher.path if recipe.teacher else ""
    ]  # fmt: skip
    assert scores.settings["engine"] == "vllm"
    source, teacher = scores.arms
    # Prompt n's answer is 2n; the first of three samples says n, the others nnn.
    assert source.per_prompt[:2] == [1.0, 0.0] and teacher.per_prompt == source.per_prompt
    assert source.truncated == pytest.approx(2 / 3)
    assert source.kl is not None and source.kl.mean > 0


def test_transformers_leaves_no_trace_in_the_settings(asked: Asked, recipe: Recipe) -> None:
    recipe.evaluate.samples = 1
    scores = evaluate(arms_for([], recipe, teacher=False), recipe)
    assert "engine" not in scores.settings and not asked.engines


def test_without_vllm_the_sentence_says_what_to_install(recipe: Recipe) -> None:
    check_engine("transformers")
    with pytest.raises(RequestError, match="pip install vllm"):
        evaluate(arms_for([], recipe), recipe, engine="vllm")
