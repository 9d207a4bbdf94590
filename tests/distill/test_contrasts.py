"""SFT, offline KD and GRPO train the same student on the same prompts, by TRL's trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseopd.distill import resume, train
from sparseopd.distill.contrasts import SFTRecipeTrainer
from sparseopd.errors import DataError, RecipeError
from sparseopd.masks import select
from sparseopd.pairs import load_model
from tests.distill.opd_runs import small, trained

KINDS = {"sft": [], "offline-kd": [], "grpo": ["rollout.samples=4"]}


def of(kind: str, *settings: str, pair: str = "tiny-arithmetic") -> Any:
    return small(f"objective.kind={kind}", *KINDS[kind], *settings, pair=pair)


@pytest.mark.parametrize("pair", ["tiny-arithmetic", "tiny-digits"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_recipe_trains_by_another_kind(kind: str, pair: str, tmp_path: Path) -> None:
    recipe = of(kind, "train.steps=2", pair=pair)
    run = train(recipe, tmp_path / "run")
    facts = run.read_facts()
    assert (facts.kind, facts.name, facts.steps) == ("contrast", kind, 2)
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    assert all("loss" in row for row in run.read_metrics())
    source, tuned = (
        load_model(recipe.student),
        load_model(recipe.student).__class__.from_pretrained(run.checkpoint, dtype=torch.float32),
    )
    assert any(
        not torch.equal(one, other)
        for one, other in zip(source.parameters(), tuned.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_masks_restrict_them_too(kind: str, tmp_path: Path) -> None:
    recipe = of(kind, "train.steps=2")
    mask = select(recipe.student.path, selector="random", density=0.1)
    run = train(recipe, tmp_path / "run", mask=mask)  # which compares every bit off the mask
    assert run.read_facts().kind == "masked"
    assert all(row["grad_norm"] > 0 for row in run.read_metrics())


def test_sft_learns_the_references_and_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[dict[str, Any]] = []
    compute = SFTRecipeTrainer.compute_loss

    def kept(self: Any, model: Any, inputs: Any, **more: Any) -> Any:
        batches.append({name: value.clone() for name, value in inputs.items()})
        return compute(self, model, inputs, **more)

    monkeypatch.setattr(SFTRecipeTrainer, "compute_loss", kept)
    prepared, _ = trained(of("sft", "train.steps=1"), tmp_path)
    tokenizer: Any = prepared.processor
    wanted = {
        (row["prompt"][-1]["content"], row["answer"] + "<|end|>") for row in prepared.prompts.train
    }
    for ids, labels in zip(batches[0]["input_ids"], batches[0]["labels"], strict=True):
        text = tokenizer.decode(ids).split("<|assistant|>")[0].split("<|user|>")[1]
        answer = tokenizer.decode(labels[labels != -100])
        assert (text.removesuffix("<|end|>"), answer) in wanted


def test_offline_kd_leaves_out_completions_that_were_cut(tmp_path: Path) -> None:
    recipe = of("offline-kd", "rollout.max_new_tokens=4", "train.steps=4")
    run = train(recipe, tmp_path / "run")
    lines = [json.loads(line) for line in run.teacher_completions.read_text().splitlines()]
    cut = sum(line["truncated"] for line in lines)
    assert 0 < cut < len(lines) == 32  # sums have four digits and no room for the end
    assert f"{cut} of 32 teacher completions were cut and left out" in run.read_facts().notes
    with pytest.raises(DataError, match=r"were cut at rollout.max_new_tokens 1: raise it"):
        train(of("offline-kd", "rollout.max_new_tokens=1"), tmp_path / "none")


def test_a_stopped_offline_run_goes_on_with_the_same_completions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = of("offline-kd", "train.steps=4", "train.save_every=2")
    whole = train(recipe, tmp_path / "whole")
    step, passes = SFTRecipeTrainer.training_step, []

    def dies(self: Any, *given: Any, **more: Any) -> Any:
        passes.append(1)
        if len(passes) > 3:
            raise KeyboardInterrupt
        return step(self, *given, **more)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(SFTRecipeTrainer, "training_step", dies)
        train(recipe, tmp_path / "stopped")
    again = resume(tmp_path / "stopped")
    name = "checkpoint/model.safetensors"
    assert (whole.path / name).read_bytes() == (again.path / name).read_bytes()


def test_grpo_rewards_what_the_grader_accepts(tmp_path: Path) -> None:
    _, run = trained(of("grpo", "train.steps=1"), tmp_path / "graded")
    row = run.read_metrics()[0]
    assert 0.2 < row["reward"] < 1
    with pytest.raises(DataError, match="grpo needs graded prompts"):
        trained(of("grpo", "data.grader=none"), tmp_path / "ungraded")
    with pytest.raises(RecipeError, match=r"rollout.samples is 1: set it to 4"):
        small("objective.kind=grpo")


def test_grpo_is_refused_before_it_meets_an_answer_that_cannot_be_graded(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    answers = ["1"] * 20 + ["none"]
    prompts.write_text("".join(f'{{"prompt": "1+0=", "answer": "{one}"}}\n' for one in answers))
    recipe = of("grpo", f"data.train={prompts}", "data.grader=numeric")
    with pytest.raises(DataError, match="finds no number in the answer 'none'"):
        trained(recipe, tmp_path / "run")


def test_sft_needs_references(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "00{n}+001="}}\n' for n in range(9)))
    recipe = of("sft", f"data.train={prompts}", "data.test=null", "data.grader=none")
    with pytest.raises(DataError, match="sft learns from reference answers"):
        trained(recipe, tmp_path / "run")
