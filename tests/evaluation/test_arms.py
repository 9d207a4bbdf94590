"""Which arms a list of runs and models becomes, and what is refused before anything loads."""

from __future__ import annotations

import pytest
import torch

from sparseopd.errors import MaskFileError, RequestError, RunFolderError
from sparseopd.evaluation import Arm, arms_for
from sparseopd.evaluation.arms import check_run, model_of, training_record
from sparseopd.masks import Mask
from sparseopd.recipe import Model

MASK = {"file": "mask.safetensors", "density": 0.25}


def names(arms: list[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def test_runs_stand_between_source_and_teacher(recipe, make_run, make_model) -> None:
    full = make_run("full", "full", make_model())
    arms = arms_for([full, str(full.path)], recipe)
    assert names(arms) == ["source", "full", "full-2", "teacher"]
    assert [arm.kind for arm in arms] == ["source", "full", "full", "teacher"]
    assert arms[1].path == str(full.checkpoint) and arms[1].run is full
    assert arms[0].path == recipe.student.path and arms[-1].path == recipe.teacher.path
    assert names(arms_for([full], recipe, source=False, teacher=False)) == ["full"]


def test_a_run_cannot_take_the_sources_name(recipe, make_run, make_model) -> None:
    run = make_run("source", "masked", make_model())
    assert names(arms_for([run], recipe)) == ["source", "source-2", "teacher"]


def test_models_by_folder_and_id(recipe) -> None:
    given = [recipe.student.path, "org/model-7b", "bundled:tiny-digits/student"]
    arms = arms_for(given, recipe, source=False, teacher=False)
    assert [(arm.name, arm.kind, arm.path) for arm in arms] == [
        ("student", "model", recipe.student.path),
        ("model-7b", "model", "org/model-7b"),
        ("student-2", "model", "bundled:tiny-digits/student"),
    ]


def test_how_each_arm_is_loaded(recipe) -> None:
    recipe.student.revision, recipe.student.dtype = "abc", "bfloat16"
    source, other, teacher = arms_for(["org/other"], recipe)
    assert model_of(source, recipe) is recipe.student
    assert model_of(teacher, recipe) is recipe.teacher
    assert model_of(other, recipe) == Model(path="org/other", dtype="bfloat16")


def test_what_cannot_be_an_arm(recipe, make_run, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    discovery = make_run("found", "discover")
    unfinished = make_run("broken", "full")
    unfinished.facts.unlink()
    for arm, sentence in [
        (discovery, "found is a discover run without a checkpoint"),
        (unfinished, "holds no finished run"),
        (str(tmp_path / "empty"), "neither a finished run .* nor a model"),
        (str(tmp_path / "gone"), "there is no run or model"),
        ("./gone", "there is no run or model ./gone"),
    ]:
        with pytest.raises(RunFolderError, match=sentence):
            arms_for([arm], recipe)


def test_the_record_of_a_masked_run(recipe, make_run, make_model) -> None:
    run = make_run("sparse", "masked", make_model(), mask=MASK)
    weight = "model.layers.1.self_attn.q_proj.weight"
    bits = torch.zeros(32, 32, dtype=torch.bool)
    bits[0] = True
    Mask.from_tensors({weight: bits}).save(run.mask)
    (arm,) = arms_for([run], recipe, source=False, teacher=False)
    record = training_record(arm)
    assert (record.density, record.lr, record.steps, record.seconds) == (0.25, 1e-3, 2, 1.5)
    assert [row["loss"] for row in record.curve] == [0.5, 0.25]
    assert record.layout == [{"layer": 1, "module": "q_proj", "count": 32, "numel": 1024}]


def test_a_damaged_mask_is_told(recipe, make_run, make_model) -> None:
    run = make_run("sparse", "masked", make_model(), mask=MASK)
    run.mask.write_bytes(b"no mask")
    (arm,) = arms_for([run], recipe, source=False, teacher=False)
    with pytest.raises(MaskFileError):
        training_record(arm)


def test_a_model_has_no_record(recipe) -> None:
    record = training_record(arms_for([], recipe)[0])
    assert record.density is None and record.curve == [] and record.layout == []


def test_runs_of_another_student_are_not_compared(recipe, make_run, make_model) -> None:
    [arm] = arms_for([make_run("full", "full", make_model())], recipe, source=False, teacher=False)
    check_run(arm, recipe)
    recipe.student.path = "org/other"
    with pytest.raises(RequestError, match="evaluate runs of one student together"):
        check_run(arm, recipe)


def test_prompts_a_run_trained_on_are_not_held_out(recipe, make_run, make_model) -> None:
    recipe.data.test, recipe.data.holdout = None, 4
    [arm] = arms_for([make_run("full", "full", make_model())], recipe, source=False, teacher=False)
    check_run(arm, recipe)
    recipe.data.holdout_seed = 5
    with pytest.raises(RequestError, match=r"trained on prompts that this evaluation holds out"):
        check_run(arm, recipe)
    recipe.data.test = recipe.data.train
    check_run(arm, recipe)
