"""Teachers that see more than the student, and variables of the chat template, for both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from sparseopd import recipe as recipes
from sparseopd.artifacts import Scores
from sparseopd.evaluation import arms_for, evaluate
from sparseopd.evaluation.divergence import divergence
from sparseopd.pairs import load_model, load_processor
from sparseopd.pairs.encoding import encode
from sparseopd.pairs.sampling import sample
from sparseopd.pairs.tiny.vocabulary import character_tokenizer
from sparseopd.recipe import Data, Model, Recipe, Rollout
from sparseopd.tasks import load_prompts
from tests.evaluation.conftest import random_model
from tests.evaluation.test_divergence import brute_force, draw
from tests.evaluation.test_sampling import trl_prompt_ids, unpadded

Change = Callable[..., Recipe]
HINT = "{prompt} look: {privileged} so "
THINKING = (
    "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %} no thought.{% endif %}="
)


@pytest.fixture
def change(recipe: Recipe) -> Change:
    """The recipe with other sections, and with the teacher's weights equal to the student's."""

    def changed(**sections: Any) -> Recipe:
        random_model(0).save_pretrained(recipe.teacher.path)  # pyright: ignore
        values = {
            "student": {"path": recipe.student.path},
            "teacher": {"path": recipe.teacher.path},  # pyright: ignore
            "data": {"train": recipe.data.train, "test": recipe.data.test, "grader": "none"},
            "rollout": {"max_new_tokens": 12},
            "evaluate": {"prompts": 6, "samples": 2, "batch_size": 5, "resamples": 50},
            "device": "cpu",
        }
        for name, section in sections.items():
            values[name] = {**values[name], **section}
        return recipes.build(values)

    return changed


@pytest.fixture
def seeing(prompts: Dataset) -> Dataset:
    """The prompts, with the teacher's own of quite other lengths."""
    hints = [[{"role": "user", "content": "hint " * n + "?"}] for n in (3, 0, 7, 1, 0, 12)]
    return prompts.add_column("teacher_prompt", hints)  # pyright: ignore


def same(prompts: Dataset) -> Dataset:
    return prompts.add_column("teacher_prompt", prompts["prompt"][:])  # pyright: ignore


def test_a_teacher_that_sees_the_same_differs_in_nothing(make_model, tokenizer, prompts) -> None:
    completions = draw(make_model(), tokenizer, prompts)
    options: Any = {"batch_size": 5, "teacher_column": "teacher_prompt"}
    found = divergence(make_model(), make_model(), tokenizer, same(prompts), completions, **options)
    assert found.tolist() == [0.0] * len(prompts)


@pytest.mark.parametrize("other", [0, 1])
def test_the_completions_own_tokens_are_compared(other, make_model, tokenizer, seeing) -> None:
    """Also where it is the same model that sees more: then the hint alone is what differs."""
    student, teacher = make_model(0), make_model(other)
    completions = draw(student, tokenizer, seeing)
    options: Any = {"batch_size": 5, "teacher_column": "teacher_prompt"}
    found = divergence(student, teacher, tokenizer, seeing, completions, **options)
    double = student.double(), teacher.double()
    exact = brute_force(*double, tokenizer, seeing, completions, "teacher_prompt")
    assert exact.min() > 0.02
    np.testing.assert_allclose(found, exact, rtol=2e-5)
    blind = brute_force(*double, tokenizer, seeing, completions)
    assert np.abs(exact - blind).min() > 0.001


def test_a_vision_teacher_sees_the_pictures_as_well() -> None:
    student, teacher = (
        load_model(Model(path=f"bundled:tiny-digits/{name}")) for name in ("student", "teacher")
    )
    processor = load_processor(Model(path="bundled:tiny-digits/student"))
    data = Data(train="bundled:tiny-digits/test.parquet", holdout=6)
    prompts = load_prompts(data, chat=True).test
    longer = [
        [{"role": "user", "content": turns[0]["content"] + turns[0]["content"][: 3 * place]}]
        for place, turns in enumerate(prompts["prompt"])
    ]
    seeing: Dataset = prompts.add_column("teacher_prompt", longer)  # pyright: ignore
    completions = draw(student, processor, seeing)
    options: Any = {"batch_size": 4, "teacher_column": "teacher_prompt"}
    found = divergence(student, teacher, processor, seeing, completions, **options)
    exact = brute_force(student, teacher, processor, seeing, completions, "teacher_prompt")
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-5)


def test_privileged_context_is_the_teachers_alone(change: Change) -> None:
    """Source and teacher are one model here, so what they see is all that can tell them apart."""
    plain, privileged = (
        evaluated(change(data=more))
        for more in ({}, {"privileged": "answer", "privileged_template": HINT})
    )
    source, teacher = plain.arms
    assert source.kl is not None and source.kl.mean == 0 and source.examples == teacher.examples
    told, tells = privileged.arms
    assert told.examples == source.examples and told.mean_tokens == source.mean_tokens
    assert told.kl is not None and told.kl.mean > 0.001
    assert tells.examples != told.examples and tells.kl is None
    assert [shown["prompt"] for shown in tells.examples] == [
        shown["prompt"] for shown in told.examples
    ]
    note = "the teacher sees answer too, in its own arm and in the KL to it"
    assert privileged.settings["notes"] == note and "notes" not in plain.settings


def evaluated(recipe: Recipe) -> Scores:
    return evaluate(arms_for([], recipe), recipe)


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = THINKING
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.mark.parametrize("template", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
def test_template_variables_reach_the_template_as_in_training(template, prompts) -> None:
    tokenizer = thinking_tokenizer()
    encoded = encode(tokenizer, list(prompts), template=template)
    cells = prompts["prompt"][:]
    assert unpadded(encoded) == trl_prompt_ids(tokenizer, cells, vision=False, template=template)
    without = not template.get("enable_thinking", True)
    assert ("no thought" in tokenizer.decode(encoded["input_ids"][0])) == without


def test_template_variables_reach_a_processors_template() -> None:
    processor: Any = load_processor(Model(path="bundled:tiny-digits/student"))
    processor.chat_template = processor.chat_template + "{% if again %}{{ again }}{% endif %}"
    data = Data(train="bundled:tiny-digits/test.parquet", holdout=2)
    rows = list(load_prompts(data, chat=True).test)
    short, long = (encode(processor, rows, template=more) for more in ({}, {"again": "1+1"}))
    assert long["input_ids"].shape[1] == short["input_ids"].shape[1] + 3
    assert long["pixel_values"].equal(short["pixel_values"])


def test_samples_and_scores_use_the_template_variables(make_model, prompts) -> None:
    tokenizer, template = thinking_tokenizer(), {"enable_thinking": False}
    options: Any = {"rollout": Rollout(max_new_tokens=8), "samples": 1, "batch_size": 6, "seed": 2}
    plain = sample(make_model(), tokenizer, prompts, **options)
    varied = sample(make_model(), tokenizer, prompts, template=template, **options)
    assert [one.text for one in plain] != [one.text for one in varied]
    pair = make_model(0), make_model(1)
    kl, other = (
        divergence(*pair, tokenizer, prompts, plain, batch_size=6, template=more)
        for more in ({}, template)
    )
    assert np.abs(kl - other).min() > 0


def test_an_evaluation_takes_the_recipes_template_variables(change: Change, tmp_path: Path) -> None:
    for name in ("student", "teacher"):
        thinking_tokenizer().save_pretrained(tmp_path / name)
    plain, varied = (
        evaluated(change(data={"chat_template": template}))
        for template in ({}, {"enable_thinking": False})
    )
    assert [arm.examples for arm in plain.arms] != [arm.examples for arm in varied.arms]
    assert varied.arms[0].kl == plain.arms[0].kl  # one model, and both read the same
    assert varied.settings["chat_template"] == {"enable_thinking": False}
    assert "chat_template" not in plain.settings
    json.dumps(varied.settings)
