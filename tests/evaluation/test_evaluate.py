"""The whole comparison on tiny random models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sparseopd.artifacts import Interval, Scores
from sparseopd.errors import DataError, PairError, RequestError, SparseOPDError
from sparseopd.evaluation import Arm, arms_for, evaluate
from sparseopd.evaluation.measure import Measurement
from sparseopd.evaluation.summary import Result, summarize
from sparseopd.masks import Mask
from sparseopd.pairs.tiny.vocabulary import character_tokenizer


@pytest.fixture
def runs(make_run, make_model) -> list[Any]:
    """A full run, a second one, and a masked run whose weights are the full run's."""
    full, other = make_run("full", "full", make_model(1)), make_run("other", "full", make_model(2))
    facts = {"file": "mask.safetensors", "density": 0.5}
    masked = make_run("masked", "masked", make_model(1), mask=facts)
    norm = {"model.norm.weight": torch.ones(32, dtype=torch.bool)}
    Mask.from_tensors(norm).save(masked.mask)
    return [masked, full, other]


def test_every_figure_of_every_arm(recipe, runs, tmp_path) -> None:
    stages: list[tuple[str, int, int]] = []
    scores = evaluate(arms_for(runs, recipe), recipe, progress=lambda *stage: stages.append(stage))
    arms = {arm.name: arm for arm in scores.arms}
    assert list(arms) == ["source", "masked", "full", "other", "teacher"]

    for arm in arms.values():
        assert arm.accuracy is not None and len(arm.per_prompt) == 6
        assert arm.accuracy.mean == pytest.approx(sum(arm.per_prompt) / 6)
        assert 0 <= arm.accuracy.low <= arm.accuracy.mean <= arm.accuracy.high <= 1
        assert 0 < arm.mean_tokens <= 12 and 0 <= arm.truncated <= 1
        assert (arm.kl is None) == (arm.kind == "teacher")
        assert arm.kl is None or arm.kl.mean > 0
    assert len({arm.accuracy.mean for arm in arms.values()}) > 1

    # Identical weights give identical completions, so identical figures.
    for figure in ("accuracy", "kl", "per_prompt", "examples", "truncated", "mean_tokens"):
        assert getattr(arms["masked"], figure) == getattr(arms["full"], figure)
        assert (
            getattr(arms["other"], figure) != getattr(arms["full"], figure) or figure == "truncated"
        )
    assert arms["masked"].agreement == {"1e-05": 1.0, "1e-04": 1.0}
    assert arms["full"].agreement is None and arms["teacher"].agreement is None
    assert 0 < arms["source"].agreement["1e-04"] < 0.5  # norm weights are all ones in both
    assert 0 < arms["other"].agreement["1e-04"] < 0.5

    assert arms["source"].gain is None and arms["source"].gain_kept is None
    for name in ("masked", "other", "teacher"):
        difference = arms[name].accuracy.mean - arms["source"].accuracy.mean
        assert arms[name].gain.mean == pytest.approx(difference)
    assert arms["masked"].density == 0.5 and arms["full"].density is None
    assert arms["masked"].layout == [{"layer": None, "module": "norm", "count": 32, "numel": 32}]
    assert len(arms["full"].curve) == 2 and arms["source"].curve == []

    first = arms["source"].examples[0]
    assert first["prompt"] == "0+0=" and first["answer"] == "0"
    assert {shown["correct"] for arm in arms.values() for shown in arm.examples} == {
        "true",
        "false",
    }
    assert [shown["prompt"] for shown in arms["teacher"].examples] == [
        "0+0=", "0+0=", "1+1=", "1+1=", "2+4=", "2+4=", "3+9=", "3+9=",
    ]  # fmt: skip

    assert ("source: sampling", 18, 18) in stages and ("other: scoring", 18, 18) in stages
    assert not any(stage == "teacher: scoring" for stage, _, _ in stages)
    settings = scores.settings
    assert (settings["prompts"], settings["samples"], settings["grader"]) == (6, 3, "chance:grade")
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == scores


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
    import numpy as np

    from sparseopd.evaluation.arms import TrainingRecord

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
