"""A run's update over time: a row a snapshot, each what analyze says of it."""

from __future__ import annotations

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from sparseopd import recipe as recipes
from sparseopd.analysis import AnalysisSettings, analyze
from sparseopd.analysis.course import FIGURES, course, write_course
from sparseopd.artifacts import RunDir, RunFacts
from sparseopd.distill import train
from sparseopd.errors import RunFolderError
from sparseopd.masks import select
from sparseopd.masks.overlap import overlaps, together
from sparseopd.masks.scope import block_of
from sparseopd.pairs import open_tensors
from tests.conftest import make_qwen3
from tests.distill.opd_runs import small

STEPS = (2, 5, 10)


def student() -> Qwen3ForCausalLM:
    return make_qwen3().bfloat16()


def after(step: int) -> Qwen3ForCausalLM:
    """The student after steps of a constant drift; two of them are lost in bfloat16."""
    tuned = student()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tuned.parameters():
            drift = torch.randn(weight.shape, generator=generator).abs_() * 1e-5
            weight.copy_(weight.float() + drift * (step if step > 2 else 0))
    return tuned


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of ten steps with snapshots of two and five, which has not ended."""
    student().save_pretrained(tmp_path / "student")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1+1="}')
    path, prompts = str(tmp_path / "student"), str(tmp_path / "prompts.jsonl")
    recipe = recipes.build({"student": path, "teacher": path, "data": {"train": prompts}})
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.recipe.write_text(recipe.to_yaml())
    for step in STEPS[:2]:
        after(step).save_pretrained(run.kept_weights(step))
    (run.snapshots / ".step-10.part").mkdir()
    after(STEPS[2]).save_pretrained(run.checkpoint)
    return run


def end(run: RunDir) -> RunDir:
    facts = RunFacts(
        kind="full", name="r", student="s", teacher="t", steps=10, lr=1.0, seed=0, seconds=1.0
    )
    run.write_facts(facts)
    return run


def test_rows_are_what_analyze_and_select_say(run: RunDir) -> None:
    rows = course(end(run))
    assert [row["step"] for row in rows] == [2, 5, 10]
    settings = AnalysisSettings(draws=0)
    for row, path in zip(
        rows, (run.kept_weights(2), run.kept_weights(5), run.checkpoint), strict=True
    ):
        whole = analyze(run.path.parent / "student", path, settings=settings).whole["observed"]
        named = {name for name in whole if name.startswith("median_coverage_")}
        assert named and {name: row[name] for name in named | {*FIGURES}} == {
            name: whole[name] for name in named | {*FIGURES}
        }
    masks = [
        select(run.path.parent / "student", path, selector="threshold")
        for path in (run.kept_weights(5), run.checkpoint)
    ]
    assert [row["support_density"] for row in rows] == [0, *(mask.density() for mask in masks)]
    assert rows[2]["support_jaccard_before"] == rows[1]["support_jaccard_last"]
    assert rows[1]["support_jaccard_last"] == masks[0].jaccard(masks[1])
    assert rows[2]["support_jaccard_last"] == 1 and rows[0]["support_jaccard_last"] == 0
    null = rows[1]["support_jaccard_last_null"]
    overlap = together(overlaps(masks, open_tensors(run.path.parent / "student"))[0, 1])
    assert overlap.expected and rows[2]["support_jaccard_before_null"] == null
    assert null == overlap.expected / (overlap.first + overlap.second - overlap.expected)
    assert {row["compared"] for row in rows} == {"bfloat16"}


def test_a_step_that_moved_nothing_has_gaps(run: RunDir) -> None:
    first = course(run)[0]
    assert first["share_zero"] == 1 and first["support_density"] == 0
    assert first["median_stable_rank"] is None and first["support_jaccard_before"] is None


def test_a_run_that_has_not_ended_has_its_snapshots(run: RunDir) -> None:
    rows = course(run)
    assert [row["step"] for row in rows] == [2, 5] and rows[1]["support_jaccard_last"] == 1
    shutil.rmtree(run.kept_weights(2))
    (alone,) = course(run)
    assert alone["support_jaccard_before"] is None and alone["support_jaccard_last"] == 1


def test_a_snapshot_of_the_last_step_counts_once(run: RunDir) -> None:
    after(10).save_pretrained(run.kept_weights(10))
    assert [row["step"] for row in course(end(run))] == [2, 5, 10]


def test_a_scope_holds_for_figures_and_support(run: RunDir) -> None:
    settings = AnalysisSettings(include=("attention",), draws=7)
    (_, row), (_, whole) = course(run, settings=settings), course(run)
    assert row["share_zero"] != whole["share_zero"]
    mask = select(run.path.parent / "student", run.kept_weights(5), selector="threshold")
    names = [name for name in mask.names if block_of(name) == "attention"]
    counts = sum(mask.count(name) for name in names), sum(mask.numel(name) for name in names)
    assert row["support_density"] == counts[0] / counts[1]


class Stopped(Exception):
    """Stands for a process that ended at once."""


def test_an_interrupted_course_goes_on(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def counted(base, tuned, **settings):
        seen.append(Path(tuned.label).name)
        if seen == ["step-2", "step-5"]:
            raise Stopped
        return analyze(base, tuned, **settings)

    monkeypatch.setattr(import_module("sparseopd.analysis.course"), "analyze", counted)
    folder = tmp_path / "kept"
    with pytest.raises(Stopped):
        course(run, folder=folder)
    assert [path.name for path in folder.iterdir()] == ["step-2.json"]
    rows = course(run, folder=folder)
    assert seen == ["step-2", "step-5", "step-5"]
    assert rows == course(run, folder=folder) == course(run)
    course(run, folder=folder, settings=AnalysisSettings(dtype="float32"))
    assert seen[-2:] == ["step-2", "step-5"], "what was asked otherwise is not used"
    assert not list(folder.glob(".*")), "no support is left"


def test_a_step_whose_weights_changed_is_measured_again(run: RunDir, tmp_path: Path) -> None:
    first = course(run, folder=tmp_path / "kept")
    after(10).save_pretrained(run.kept_weights(5))
    second = course(run, folder=tmp_path / "kept")
    assert second[0]["share_zero"] == first[0]["share_zero"]
    assert second[1]["share_zero"] != first[1]["share_zero"] and second == course(run)


def test_supports_lie_in_the_folder_that_is_given(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path | None] = []
    module = import_module("sparseopd.analysis.course")
    supports = module.supports

    def noted(*args, **settings):
        places.append(settings["folder"])
        return supports(*args, **settings)

    monkeypatch.setattr(module, "supports", noted)
    course(run, folder=tmp_path / "kept")
    assert places == [tmp_path / "kept"]


def test_it_is_written_as_json_and_as_a_table(run: RunDir, tmp_path: Path) -> None:
    rows = course(run)
    write_course(rows, tmp_path)
    assert json.loads((tmp_path / "course.json").read_text()) == rows
    with (tmp_path / "course.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["step"] for line in table] == ["2", "5"]
    assert float(table[1]["share_zero"]) == rows[1]["share_zero"]
    assert table[0]["median_stable_rank"] == "" and list(table[0]) == list(rows[0])


def test_a_run_without_snapshots_is_told_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"kept no weights on the way: train with --snapshots"):
        course(RunDir(tmp_path))


def test_a_real_run_moves_step_by_step(tmp_path: Path) -> None:
    recipe = small("train.batch_size=4", "data.limit=32", "train.snapshots=[1,2]")
    rows = course(train(recipe, tmp_path / "run"))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["relative_norm"] for row in rows] == sorted(row["relative_norm"] for row in rows)
    assert all(0 < row["support_jaccard_last"] <= 1 for row in rows)
