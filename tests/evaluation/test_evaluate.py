"""The whole comparison on tiny random models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparseopd.artifacts import Interval, RunDir, Scores
from sparseopd.errors import DataError, PairError, RequestError, SparseOPDError
from sparseopd.evaluation import Arm, arms_for, evaluate
from sparseopd.evaluation.arms import TrainingRecord
from sparseopd.evaluation.measure import Measurement
from sparseopd.evaluation.summary import Result, summarize
from sparseopd.masks import Mask
from sparseopd.pairs.tiny.vocabulary import character_tokenizer
from sparseopd.recipe import Recipe
from tests.evaluation.conftest import random_model, write_recipe, write_run


def write_runs(folder: Path, recipe: Recipe) -> list[RunDir]:
    """A masked run, the full run whose weights it has, and another full run."""
    facts = {"file": "mask.safetensors", "density": 0.5}
    masked = write_run(folder / "masked", recipe, "masked", random_model(1), mask=facts)
    norm = {"model.norm.weight": torch.ones(32, dtype=torch.bool)}
    Mask.from_tensors(norm).save(masked.mask)
    full = write_run(folder / "full", recipe, "full", random_model(1))
    return [masked, full, write_run(folder / "other", recipe, "full", random_model(2))]


@pytest.fixture
def runs(tmp_path: Path, recipe: Recipe) -> list[RunDir]:
    return write_runs(tmp_path, recipe)


@dataclass
class Compared:
    """One evaluation of all arms, and the progress it reported."""

    scores: Scores
    stages: list[tuple[str, int, int]]

    def __getitem__(self, name: str) -> Any:
        return next(arm for arm in self.scores.arms if arm.name == name)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("compared")
    stages: list[tuple[str, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        recipe = write_recipe(folder)
        arms = arms_for(write_runs(folder, recipe), recipe)
        scores = evaluate(arms, recipe, progress=lambda *stage: stages.append(stage))
    return Compared(scores, stages)


def test_the_source_comes_first_and_the_teacher_last(compared: Compared) -> None:
    names = [arm.name for arm in compared.scores.arms]
    assert names == ["source", "masked", "full", "other", "teacher"]
    started = [stage.split(":")[0] for stage, done, _ in compared.stages if done == 7]
    assert list(dict.fromkeys(started)) == names
    assert ("source: sampling", 18, 18) in compared.stages
    assert ("other: scoring", 18, 18) in compared.stages
    assert not any(stage == "teacher: scoring" for stage, _, _ in compared.stages)


def test_accuracy_and_kl_of_every_arm(compared: Compared) -> None:
    for arm in compared.scores.arms:
        assert arm.accuracy is not None and len(arm.per_prompt) == 6
        assert arm.accuracy.mean == pytest.approx(sum(arm.per_prompt) / 6)
        assert 0 <= arm.accuracy.low <= arm.accuracy.mean <= arm.accuracy.high <= 1
        assert 0 < arm.mean_tokens <= 12 and 0 <= arm.truncated <= 1
        assert arm.kl is None if arm.kind == "teacher" else arm.kl is not None and arm.kl.mean > 0


@pytest.mark.parametrize("figure", ["accuracy", "kl", "per_prompt", "examples", "mean_tokens"])
def test_identical_weights_have_identical_figures(compared: Compared, figure: str) -> None:
    """The random numbers are common to all arms."""
    assert getattr(compared["masked"], figure) == getattr(compared["full"], figure)
    assert getattr(compared["other"], figure) != getattr(compared["full"], figure)


def test_agreement_is_with_the_first_full_run(compared: Compared) -> None:
    assert compared["masked"].agreement == {"1e-05": 1.0, "1e-04": 1.0}
    assert compared["full"].agreement is None and compared["teacher"].agreement is None
    for name in ("source", "other"):  # the norms' weights are all ones in every random model
        assert 0 < compared[name].agreement["1e-04"] < 0.5


def test_gains_are_over_the_source(compared: Compared) -> None:
    assert compared["source"].gain is None and compared["source"].gain_kept is None
    for name in ("masked", "other", "teacher"):
        difference = compared[name].accuracy.mean - compared["source"].accuracy.mean
        assert compared[name].gain.mean == pytest.approx(difference)


def test_what_the_runs_say_of_their_training(compared: Compared) -> None:
    assert compared["masked"].density == 0.5 and compared["full"].density is None
    norm = {"layer": None, "module": "norm", "count": 32, "numel": 32}
    assert compared["masked"].layout == [norm]
    assert len(compared["full"].curve) == 2 and compared["source"].curve == []


def test_examples_are_the_same_prompts_for_every_arm(compared: Compared) -> None:
    first = compared["source"].examples[0]
    assert first["prompt"] == "0+0=" and first["answer"] == "0"
    verdicts = {shown["correct"] for arm in compared.scores.arms for shown in arm.examples}
    assert verdicts == {"true", "false"}
    for arm in compared.scores.arms:
        shown = [example["prompt"] for example in arm.examples]
        assert shown == [text for text in ("0+0=", "1+1=", "2+4=", "3+9=") for _ in range(2)]


def test_scores_are_saved_with_their_settings(compared: Compared, tmp_path: Path) -> None:
    settings = compared.scores.settings
    assert (settings["prompts"], settings["samples"], settings["grader"]) == (6, 3, "chance:grade")
    compared.scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == compared.scores


def test_two_evaluations_agree_to_the_bit(recipe, runs) -> None:
    arms = arms_for(runs[:1], recipe, teacher=False)
    assert evaluate(arms, recipe) == evaluate(arms, recipe)


def test_without_a_grader_there_is_only_the_kl(recipe, runs) -> None:
    recipe.data.grader = "none"
    scores = evaluate(arms_for(runs[:1], recipe), recipe)
    for arm in scores.arms:
        assert arm.accuracy is arm.gain is arm.gain_kept is None and arm.per_prompt == []
        assert {shown["correct"] for shown in arm.examples} == {""}
    assert scores.arms[1].kl is not None
    assert scores.settings["grader"] == "none"


def test_without_the_source_there_are_no_gains(recipe, runs) -> None:
    scores = evaluate(arms_for(runs[:2], recipe, source=False, teacher=False), recipe)
    assert [arm.gain for arm in scores.arms] == [None, None]


def result(name: str, kind: str, correct: list[list[int]]) -> Result:
    return Result(
        arm=Arm(name=name, kind=kind, path=name),
        record=TrainingRecord(),
        measurement=Measurement(
            correct=np.array(correct, dtype=bool),
            kl=None,
            truncated=0.0,
            mean_tokens=1.0,
            examples=[],
        ),
        agreement=None,
    )


def test_the_gain_kept_refers_to_the_first_full_run(recipe) -> None:
    half, most, every = [[1, 0]] * 8, [[1, 1]] * 6 + [[1, 0]] * 2, [[1, 1]] * 8
    scores = summarize(
        [
            result("source", "source", half),
            result("sparse", "masked", most),
            result("full", "full", every),
            result("full-2", "full", most),
            result("teacher", "teacher", every),
        ],
        recipe.evaluate,
    )
    kept = {arm.name: arm.gain_kept for arm in scores}
    assert kept["source"] is kept["teacher"] is None
    assert kept["full"] == Interval(1.0, 1.0, 1.0)
    assert kept["sparse"] == kept["full-2"]
    assert kept["sparse"] is not None
    assert kept["sparse"].mean == 0.75 and kept["sparse"].low < 0.75 < kept["sparse"].high
    assert scores[1].gain is not None and scores[1].gain.mean == pytest.approx(0.375)


def test_no_gain_is_kept_of_none(recipe) -> None:
    half = [[1, 0]] * 8
    rows = [("source", "source"), ("full", "full"), ("sparse", "masked")]
    scores = summarize([result(*row, half) for row in rows], recipe.evaluate)
    assert [arm.gain_kept for arm in scores] == [None] * 3


def test_nothing_to_evaluate(recipe) -> None:
    with pytest.raises(RequestError, match="nothing to evaluate"):
        evaluate([], recipe)
    twice = arms_for([], recipe)[:1] * 2
    with pytest.raises(RequestError, match="same name"):
        evaluate(twice, recipe)


def test_a_model_of_another_vocabulary_is_refused(recipe, make_model, tmp_path) -> None:
    make_model().save_pretrained(tmp_path / "foreign")
    character_tokenizer(["word"]).save_pretrained(tmp_path / "foreign")
    with pytest.raises(PairError, match="different vocabularies"):
        evaluate(arms_for([str(tmp_path / "foreign")], recipe), recipe)


def test_a_failing_grader_is_named(recipe, runs, tmp_path) -> None:
    (tmp_path / "broken.py").write_text("def grade(completion, answer): return 1 / 0\n")
    recipe.data.grader = "broken:grade"
    with pytest.raises(DataError, match="the grader broken:grade failed"):
        evaluate(arms_for(runs[:1], recipe), recipe)


def test_weights_that_are_not_finite_are_told(recipe, make_run, make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    run = make_run("burst", "full", model)
    with pytest.raises(SparseOPDError, match="burst gives probabilities that are not finite"):
        evaluate(arms_for([run], recipe, source=False), recipe)


def test_a_teacher_that_is_not_finite_is_told(recipe, make_model) -> None:
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    model.save_pretrained(recipe.teacher.path)
    with pytest.raises(SparseOPDError, match="KL from source to the teacher is not finite"):
        evaluate(arms_for([], recipe), recipe)


def test_fewer_prompts_than_asked_for_are_all_used(recipe, runs) -> None:
    recipe.evaluate = dataclasses.replace(recipe.evaluate, prompts=1000, samples=1)
    scores = evaluate(arms_for(runs[:1], recipe, teacher=False), recipe)
    assert scores.settings["prompts"] == 8 and len(scores.arms[0].per_prompt) == 8
