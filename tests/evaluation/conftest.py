"""Tiny random models with a character tokenizer, and run folders around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir, RunFacts
from sparseopd.pairs.tiny.vocabulary import END, PAD, character_tokenizer
from sparseopd.recipe import Recipe

MakeModel = Callable[..., Qwen3ForCausalLM]
TOKENIZER = character_tokenizer()


def random_model(seed: int = 0, vocab_size: int | None = None) -> Qwen3ForCausalLM:
    """A random Qwen3 whose next-token distributions are far from uniform."""
    config = Qwen3Config(
        vocab_size=vocab_size or len(TOKENIZER),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.15,
        eos_token_id=TOKENIZER.get_vocab()[END],
        pad_token_id=TOKENIZER.get_vocab()[PAD],
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


def write_recipe(folder: Path) -> Recipe:
    """Two random models, eight prompts, and a grader that random text passes at times.

    The grader is found once `folder` is on the import path.
    """
    for name, seed in (("student", 0), ("teacher", 9)):
        random_model(seed).save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
    rows = [{"prompt": f"{n}+{n * n}=", "answer": str(2 * n)} for n in range(8)]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "chance.py").write_text(
        "def grade(completion, answer):\n"
        "    return (sum(map(ord, completion)) + int(answer)) % 3 > 0\n"
    )
    prompts = str(folder / "prompts.jsonl")
    return recipes.build(
        {
            "name": "tiny",
            "student": str(folder / "student"),
            "teacher": str(folder / "teacher"),
            "data": {"train": prompts, "test": prompts, "grader": "chance:grade"},
            "rollout": {"max_new_tokens": 12},
            "evaluate": {"prompts": 6, "samples": 3, "batch_size": 7, "resamples": 200},
            "device": "cpu",
        }
    )


def write_run(
    folder: Path, recipe: Recipe, kind: str, model: Any = None, mask: dict[str, Any] | None = None
) -> RunDir:
    """A finished run's folder; without a model it holds no checkpoint."""
    run = RunDir(folder)
    run.path.mkdir()
    run.recipe.write_text(recipe.to_yaml())
    run.metrics.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    if model is not None:
        model.save_pretrained(run.checkpoint)
        TOKENIZER.save_pretrained(run.checkpoint)
    facts = RunFacts(
        kind=kind,
        name=folder.name,
        student=recipe.student.path,
        teacher=recipe.teacher.path,
        steps=2,
        lr=1e-3,
        seed=0,
        seconds=1.5,
        mask=mask,
    )
    run.write_facts(facts)
    return run


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return TOKENIZER


@pytest.fixture
def make_model() -> MakeModel:
    return random_model


@pytest.fixture
def prompts() -> Dataset:
    """Six chat prompts of different lengths."""
    texts = ["1+1=", "what is 12+30?", "a", "hello there, friend", "9-3=", "xyz"]
    rows = [{"prompt": [{"role": "user", "content": text}], "answer": "2"} for text in texts]
    return Dataset.from_list(rows)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.syspath_prepend(tmp_path)
    return write_recipe(tmp_path)


@pytest.fixture
def make_run(tmp_path: Path, recipe: Recipe) -> Callable[..., RunDir]:
    return lambda name, *details, **more: write_run(tmp_path / name, recipe, *details, **more)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Models this small lose more to threads that wait for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
