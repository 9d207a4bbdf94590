"""The KL against brute force in float64, whatever the batches, padding and vocabularies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3ForCausalLM

from sparseopd.evaluation.divergence import _sub_batches, divergence, token_divergence
from sparseopd.pairs import load_model, load_processor
from sparseopd.pairs.encoding import encode
from sparseopd.pairs.sampling import Completion, sample
from sparseopd.recipe import Data, Model, Rollout
from sparseopd.tasks import load_prompts


def draw(model: Any, processor: Any, prompts: Dataset) -> list[Completion]:
    rollout = Rollout(max_new_tokens=10)
    return sample(model, processor, prompts, rollout=rollout, samples=2, batch_size=6, seed=1)


def brute_force(
    student: Any,
    teacher: Any,
    processor: Any,
    prompts: Dataset,
    completions: list[Completion],
    teacher_column: str = "prompt",
) -> np.ndarray:
    """One unpadded row at a time, in float64, by the definition."""
    found: dict[int, list[float]] = {}
    for item in completions:
        row = prompts[item.prompt]
        ours = completion_logits(student, processor, row, "prompt", item.ids)
        theirs = completion_logits(teacher, processor, row, teacher_column, item.ids)
        shared = min(ours.shape[-1], theirs.shape[-1])
        p, q = (torch.softmax(logits[:, :shared], dim=-1).numpy() for logits in (ours, theirs))
        found.setdefault(item.prompt, []).extend((p * np.log(p / q)).sum(axis=-1))
    return np.array([np.mean(found[prompt]) for prompt in range(len(prompts))])


@torch.no_grad()
def completion_logits(
    model: Any, processor: Any, row: Any, column: str, ids: torch.Tensor
) -> torch.Tensor:
    """The float64 logits that predict each token of a completion, after one prompt."""
    fields = encode(processor, [row], column)
    start = fields["input_ids"].shape[1]
    fields["input_ids"] = torch.cat([fields["input_ids"], ids[None]], dim=1)
    fields["attention_mask"] = torch.ones_like(fields["input_ids"])
    return model(**fields).logits[0].double()[start - 1 : -1]


@pytest.mark.parametrize("vocabulary", [None, 110])
def test_brute_force(vocabulary, make_model, tokenizer, prompts) -> None:
    """Also where the teacher's vocabulary is padded to more rows."""
    student, teacher = make_model(0), make_model(1, vocab_size=vocabulary)
    completions = draw(student, tokenizer, prompts)
    assert len({len(item.ids) for item in completions}) > 1  # there is padding to get wrong
    found = divergence(student, teacher, tokenizer, prompts, completions, batch_size=5)
    exact = brute_force(student.double(), teacher.double(), tokenizer, prompts, completions)
    assert exact.min() > 0.05
    np.testing.assert_allclose(found, exact, rtol=2e-5)


def test_a_model_does_not_differ_from_itself(make_model, tokenizer, prompts) -> None:
    student = make_model()
    completions = draw(student, tokenizer, prompts)
    found = divergence(student, make_model(), tokenizer, prompts, completions, batch_size=5)
    assert found.tolist() == [0.0] * len(prompts)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 12}, {"budget": 1}])
def test_batches_do_not_matter(options, make_model, tokenizer, prompts) -> None:
    student, teacher = make_model(0), make_model(1)
    completions = draw(student, tokenizer, prompts)
    expected = divergence(student, teacher, tokenizer, prompts, completions, batch_size=5)
    settings: dict[str, Any] = {"batch_size": 12, **options}
    found = divergence(student, teacher, tokenizer, prompts, completions, **settings)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_more_padding_does_not_matter(make_model, tokenizer, prompts) -> None:
    """A long prompt and a long completion beside them pad all others on both sides."""
    student, teacher = make_model(0), make_model(1)
    completions = draw(student, tokenizer, prompts)
    expected = divergence(student, teacher, tokenizer, prompts, completions, batch_size=50)
    long = Dataset.from_list([{"prompt": [{"role": "user", "content": "z" * 60}], "answer": ""}])
    longer = concatenate_datasets([prompts, long])
    more = [*completions, Completion(6, torch.full((40,), 9), "", True)]
    found = divergence(student, teacher, tokenizer, longer, more, batch_size=50)
    np.testing.assert_allclose(found[:6], expected, rtol=1e-5)


def test_padding_does_not_move_learned_positions(tokenizer, prompts) -> None:
    """A GPT-2 counts positions from the prompt's first token, as it does when it generates."""
    torch.manual_seed(0)
    size = len(tokenizer)
    config = GPT2Config(
        vocab_size=size, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, bos_token_id=None
    )
    student, teacher = (GPT2LMHeadModel(config).eval() for _ in range(2))
    completions = draw(student, tokenizer, prompts)
    together = divergence(student, teacher, tokenizer, prompts, completions, batch_size=12)
    exact = brute_force(student, teacher, tokenizer, prompts, completions)
    np.testing.assert_allclose(together, exact, rtol=1e-4)


class Plain(Qwen3ForCausalLM):
    """A model whose forward can neither keep a few logits nor take positions."""

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):  # pyright: ignore
        return super().forward(input_ids, attention_mask, use_cache=use_cache)


def test_a_model_that_returns_every_logit(make_model, tokenizer, prompts) -> None:
    student, teacher = make_model(0), make_model(1)
    plain = Plain(teacher.config).eval()
    plain.load_state_dict(teacher.state_dict())
    completions = draw(student, tokenizer, prompts)
    expected = divergence(student, teacher, tokenizer, prompts, completions, batch_size=5)
    found = divergence(student, plain, tokenizer, prompts, completions, batch_size=5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_token_the_student_never_says_adds_nothing() -> None:
    student, teacher = torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert token_divergence(student, teacher).item() == pytest.approx(np.log(1.5))
    assert token_divergence(teacher, student).item() == torch.inf


def test_half_precision_logits_are_compared_in_fp32() -> None:
    logits = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = token_divergence(logits[0], logits[1])
    assert found.dtype == torch.float32
    p, q = (logits[n].double().softmax(-1) for n in (0, 1))
    np.testing.assert_allclose(found, (p * (p / q).log()).sum(-1), rtol=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 5000))
def test_sub_batches_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    completions = [Completion(n, torch.zeros(size), "", True) for n, size in enumerate(lengths)]
    batches = list(_sub_batches(completions, vocabulary=10, batch_size=8, budget=budget))
    assert sorted(item.prompt for rows in batches for item in rows) == list(range(len(lengths)))
    for rows in batches:
        size = len(rows) * max(len(item.ids) for item in rows) * 10 * 4
        assert len(rows) == 1 or (size <= budget and len(rows) <= 8)


def test_the_vision_pair() -> None:
    """Each row's picture must stay its own in sub-batches ordered by length."""
    student, teacher = (
        load_model(Model(path=f"bundled:tiny-digits/{name}")) for name in ("student", "teacher")
    )
    processor = load_processor(Model(path="bundled:tiny-digits/student"))
    data = Data(train="bundled:tiny-digits/test.parquet", holdout=8)
    prompts = load_prompts(data, chat=True).test
    completions = draw(student, processor, prompts)
    found = divergence(student, teacher, processor, prompts, completions, batch_size=5)
    exact = brute_force(student, teacher, processor, prompts, completions)
    assert exact.max() > 0.01
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-5)
