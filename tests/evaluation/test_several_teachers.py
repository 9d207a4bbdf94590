"""Several teachers, teachers in few bits, and teachers on a server, through a whole evaluation."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sparseopd import recipe as recipes
from sparseopd.errors import DataError, PairError
from sparseopd.evaluation import arms_for, divergence, evaluate, sample
from sparseopd.evaluation import teachers as held
from sparseopd.evaluation.arms import model_of
from sparseopd.pairs import load_model, load_processor
from sparseopd.pairs.tiny.vocabulary import character_tokenizer
from sparseopd.recipe import Recipe
from sparseopd.report import scores_table
from sparseopd.report.page import render
from sparseopd.tasks import load_prompts
from tests.evaluation.conftest import TOKENIZER, random_model

Build = Callable[..., Recipe]
OWNERS = ("sums", "squares", "squares", "sums", "squares", "squares")
SERVER = "http://localhost:8000"


@pytest.fixture
def several(tmp_path: Path) -> Build:
    """A recipe of two teachers; keywords change the settings of either."""
    folders = {name: tmp_path / name for name in ("student", "sums", "squares")}
    for seed, folder in enumerate(folders.values()):
        random_model(seed).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
    rows = [
        {"prompt": f"{n}+{n * n}=", "answer": str(n), "owner": owner}
        for n, owner in enumerate(OWNERS)
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))

    def built(**more: dict[str, Any]) -> Recipe:
        teachers = {
            name: {"path": str(folders[name]), **more.get(name, {})} for name in ("sums", "squares")
        }
        return recipes.build(
            {
                "student": str(folders["student"]),
                "teachers": teachers,
                "data": {"train": str(file), "test": str(file), "teacher": "owner"},
                "objective": {"kind": "sampled-token"},
                "rollout": {"max_new_tokens": 8},
                "evaluate": {"prompts": 6, "samples": 3, "batch_size": 7, "resamples": 50},
                "device": "cpu",
            }
        )

    return built


def expected_kl(recipe: Recipe) -> np.ndarray:
    """Each prompt's KL by hand: all prompts to either teacher, then each prompt's own."""
    processor = load_processor(recipe.student)
    student = load_model(recipe.student)
    prompts = load_prompts(recipe.data, chat=True).test
    completions = sample(
        student, processor, prompts, rollout=recipe.rollout, samples=3, batch_size=7, seed=1234
    )
    found = {
        name: divergence(
            student, load_model(teacher), processor, prompts, completions, batch_size=7
        )
        for name, teacher in recipe.all_teachers().items()
    }
    return np.array([found[owner][place] for place, owner in enumerate(OWNERS)])


def test_each_teacher_is_an_arm(several: Build) -> None:
    recipe = several()
    arms = arms_for([recipe.student.path], recipe)
    assert [(arm.name, arm.kind) for arm in arms] == [
        ("source", "source"),
        ("student", "model"),
        ("teacher sums", "teacher"),
        ("teacher squares", "teacher"),
    ]
    assert model_of(arms[3], recipe) is recipe.teachers["squares"]
    assert len(arms_for([], recipe, teacher=False)) == 1


def test_kl_is_to_the_teacher_of_each_prompt(several: Build) -> None:
    recipe = several()
    stages: list[tuple[str, int, int]] = []
    scores = evaluate(arms_for([], recipe), recipe, progress=lambda *call: stages.append(call[:3]))
    source, *teachers = scores.arms
    assert source.kl is not None
    assert source.kl.mean == pytest.approx(expected_kl(recipe).mean(), rel=1e-5)
    for arm in teachers:
        assert arm.kl is None and len(arm.per_prompt) == len(OWNERS) and len(arm.examples) == 8
    assert teachers[0].examples != teachers[1].examples
    scored = [done for stage, done, _ in stages if stage == "source: scoring"]
    assert scored == sorted(scored) and scored.count(18) == 1
    assert scores.settings["teacher"] == {
        "sums": recipe.teachers["sums"].path,
        "squares": recipe.teachers["squares"].path,
    }
    assert scores.settings["notes"] == (
        "KL is to the teacher of each prompt; a teacher's arm answers the prompts of the others too"
    )
    page = render([scores], title="t", command="c")
    assert "teacher squares" in page and scores.settings["notes"].split("; ")[0] in page


def test_one_teacher_is_in_memory_at_a_time(
    several: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the one that is there when an arm begins is used first."""
    recipe, loaded = several(), []
    alive: list[weakref.ref[Any]] = []

    def watched(teacher: Any, **options: Any) -> Any:
        assert not any(model() is not None for model in alive)
        model = load_model(teacher, **options)
        alive.append(weakref.ref(model))
        loaded.append(Path(teacher.path).name)
        return model

    monkeypatch.setattr(held, "load_model", watched)
    evaluate(arms_for([recipe.student.path], recipe), recipe)
    assert loaded == ["sums", "squares", "sums", "squares"]
    single = recipes.build(
        {
            "student": recipe.student.path,
            "teacher": recipe.teachers["sums"].path,
            "data": {"train": recipe.data.train, "test": recipe.data.test},
            "rollout": {"max_new_tokens": 2},
            "evaluate": {"samples": 1, "resamples": 50},
            "device": "cpu",
        }
    )
    loaded.clear()
    evaluate(arms_for([single.student.path], single), single)
    assert loaded == ["sums"]


def test_a_prompt_of_an_unknown_teacher_is_told(several: Build) -> None:
    recipe = several()
    file = Path(recipe.data.train)
    file.write_text(file.read_text().replace('"squares"', '"roots"'))
    with pytest.raises(DataError, match="roots"):
        evaluate(arms_for([], recipe), recipe)


@pytest.mark.parametrize(
    ("served", "grader"), [(("sums", "squares"), "none"), (("squares",), "exact")]
)
def test_a_server_leaves_no_kl(
    several: Build, served: tuple[str, ...], grader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is loaded for it; its prompts have no KL, so no figure stands for all of them."""
    loaded = []
    monkeypatch.setattr(
        held, "load_model", lambda teacher, **more: loaded.append(teacher) or load_model(teacher)
    )
    recipe = several(**{name: {"server": SERVER} for name in served})
    recipe.data.grader = grader
    scores = evaluate(arms_for([], recipe), recipe)
    local = [name for name in ("sums", "squares") if name not in served]
    assert [arm.name for arm in scores.arms] == ["source", *(f"teacher {name}" for name in local)]
    assert [teacher.path for teacher in loaded] == [recipe.teachers[name].path for name in local]
    assert all(arm.kl is None for arm in scores.arms)
    for name in served:
        assert f"the teacher {name} is on a server: no KL" in scores.settings["notes"]
    page = render([scores], title="t", command="c")
    assert "no KL" in page and "nats/token" not in page
    screen = Console(file=StringIO(), width=80)
    screen.print(scores_table(scores))
    assert "source" in screen.file.getvalue() and "nats" not in screen.file.getvalue()  # pyright: ignore


def test_a_single_teacher_on_a_server(recipe: Recipe) -> None:
    served = recipes.build(
        {
            "student": recipe.student.path,
            "teacher": {"path": recipe.teacher.path, "server": SERVER},  # pyright: ignore
            "data": {"train": recipe.data.train, "test": recipe.data.test, "privileged": "answer"},
            "objective": {"kind": "teacher-top-k"},
            "rollout": {"max_new_tokens": 4},
            "evaluate": {"samples": 1, "resamples": 50},
            "device": "cpu",
        }
    )
    scores = evaluate(arms_for([], served), served)
    assert [(arm.name, arm.kl) for arm in scores.arms] == [("source", None)]
    assert scores.settings["notes"] == "the teacher is on a server: no KL"


def test_a_quantized_teacher_is_the_one_measured(recipe: Recipe) -> None:
    assert recipe.teacher is not None
    found = {}
    for bits in (None, "8bit", "4bit"):
        recipe.teacher.quantization = bits  # pyright: ignore[reportAttributeAccessIssue]
        found[bits] = evaluate(arms_for([], recipe), recipe)
    plain, *small = [scores.arms[0] for scores in found.values()]
    assert plain.kl is not None
    for source in small:
        assert source.kl is not None and source.kl.mean != plain.kl.mean
        assert source.kl.mean == pytest.approx(plain.kl.mean, rel=0.2)
        assert source.examples == plain.examples
    assert found["4bit"].arms[1].examples != found[None].arms[1].examples
    assert found["4bit"].settings["notes"] == "the teacher is held in 4bit"
    assert "notes" not in found[None].settings


def test_a_teachers_device_is_checked(recipe: Recipe) -> None:
    assert recipe.teacher is not None
    recipe.teacher.device = "cuda:99"
    with pytest.raises(PairError, match="device 'cuda:99' cannot be used"):
        evaluate(arms_for([], recipe), recipe)


def test_a_teacher_of_more_tokens_is_told(recipe: Recipe, make_model: Any) -> None:
    """Its arm may write tokens that the student's tokenizer does not know."""
    assert recipe.teacher is not None
    larger = character_tokenizer(["word"])
    make_model(9, vocab_size=len(larger)).save_pretrained(recipe.teacher.path)
    larger.save_pretrained(recipe.teacher.path)
    scores = evaluate(arms_for([], recipe), recipe)
    assert "the teacher has 1 tokens after the student's last" in scores.settings["notes"]
    assert scores.arms[0].kl is not None and scores.arms[1].accuracy is not None
