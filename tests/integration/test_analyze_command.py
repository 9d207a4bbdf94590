"""The analyze command on real files: models, runs, several of them, interrupted, refused."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparseopd import analyses
from sparseopd import recipe as recipes
from sparseopd.analysis import Analysis, AnalysisSettings, analyze
from sparseopd.artifacts import RunDir, RunFacts
from sparseopd.errors import RequestError, RunFolderError
from tests.integration.conftest import SHORT, Command, Ran, files_of

REFERENCE = Path(__file__).parent.parent / "analysis" / "reference"
BASE, TUNED = REFERENCE / "base", REFERENCE / "tuned"


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def refused(ran: Ran, *parts: str) -> None:
    assert ran.code == 2 and ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran.err
    for part in parts:
        assert part in ran.err, ran.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_models(here: Path, sparseopd: Command) -> None:
    ran = done(sparseopd("analyze", BASE, TUNED, "-o", "out", "--json"))
    told = " ".join(ran.err.split())
    assert (
        "Sparser than dense Gaussian noise of the same norm: 72.8 % of the coordinates moved by"
        in told
    )
    assert "Modules that show it by themselves: o_proj." in told
    assert "Modules that show it by themselves: down_proj." in told
    assert "bfloat16" in ran.err and "report: out/analysis.html" in ran.err
    found = Analysis.load(Path("out/analysis.json"))
    assert found.whole["observed"]["share_zero"] == pytest.approx(0.7153381741603764, abs=1e-15)
    printed = json.loads(ran.out)["analyses"][0]
    assert printed["whole"] == found.whole and printed["findings"] == found.findings
    with Path("out/tensors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in found.tensors]
    page = Path("out/analysis.html").read_text()
    assert "sparseopd analyze" in page and page.count("<svg") >= 5
    assert not Path("out/partial.safetensors").exists()
    refused(sparseopd("analyze", BASE, TUNED, "-o", "out"), "out holds a finished analysis")


def test_without_a_folder_nothing_is_written(here: Path, sparseopd: Command) -> None:
    ran = done(sparseopd("analyze", BASE, TUNED, "--no-null"))
    assert "No null was drawn" in ran.err and not list(here.iterdir())


def test_every_line_fits_a_terminal(
    here: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = done(sparseopd("analyze", BASE, TUNED, "--draws", 2))
    assert max(map(len, ran.err.splitlines())) <= 80 and "…" not in ran.err


def test_a_run_and_its_snapshots(here: Path, sparseopd: Command) -> None:
    words = [
        "tiny-arithmetic",
        "-o",
        "run",
        *SHORT,
        "train.snapshots=[1,2]",
        "train.save_dtype=float32",
    ]
    done(sparseopd("train", *words))
    done(sparseopd("analyze", "run", "--dtype", "bfloat16"))
    found = Analysis.load(Path("run/analysis/analysis.json"))
    assert found.base == "bundled:tiny-arithmetic/student"
    assert found.dtypes["compared"] == ["bfloat16"]
    zero = found.whole["observed"]["share_zero"], found.whole["master"]["share_zero"]
    assert zero[0] > zero[1], "float32 holds changes that bfloat16 rounds away"
    course = json.loads(Path("run/analysis/course.json").read_text())
    assert [row["step"] for row in course] == [1, 2, 4]


def test_several_updates(here: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path(shutil.copytree(TUNED, "other"))
    weights = load_file(other / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].float().add(0.01).bfloat16()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    places: list[str] = []
    made = tempfile.TemporaryDirectory

    def noted(*args, **settings):
        places.append(str(settings["dir"]))
        return made(*args, **settings)

    monkeypatch.setattr("sparseopd.analysis.supports.tempfile.TemporaryDirectory", noted)
    ran = done(sparseopd("analyze", BASE, TUNED, "other", "-o", "out", "--draws", 2, "--json"))
    assert places == ["out"] and not list(Path("out").glob(".*")), "supports are not in /tmp"
    found = json.loads(ran.out)
    assert [one["name"] for one in found["analyses"]] == ["tuned", "other"]
    assert found["comparison"] == json.loads(Path("out/comparison.json").read_text())
    assert {"out/tuned/analysis.json", "out/other/tensors.csv"} <= {
        f"out/{name}" for name in files_of(Path("out"))
    }


def test_an_interrupted_analysis_goes_on(
    here: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:

    module = sys.modules["sparseopd.analysis.analyze"]
    measure, measured = module.measure, []

    def interrupted(part, sides, settings):
        measured.append(part.name)
        if len(measured) == 5:
            raise KeyboardInterrupt
        return measure(part, sides, settings)

    monkeypatch.setattr(module, "measure", interrupted)
    words = ["analyze", BASE, TUNED, "-o", "out", "--draws", 2]
    ran = sparseopd(*words)
    assert ran.code == 130 and "go on with sparseopd analyze" in " ".join(ran.err.split())
    assert list(files_of(Path("out"))) == ["partial.safetensors"]
    refused(sparseopd(*words, "--seed", 7), "out holds part of an analysis")
    before = len(measured)
    done(sparseopd(*words))
    again = len(measured) - before
    whole = analyze(BASE, TUNED, settings=module.AnalysisSettings(draws=2))
    found = Analysis.load(Path("out/analysis.json"))
    assert again < len(whole.tensors), "finished tensors were measured again"
    assert (found.whole, found.tensors, found.joint) == (whole.whole, whole.tensors, whole.joint)


@pytest.mark.parametrize(
    "words, parts",
    [
        ([BASE], ["give the model before and after training"]),
        ([BASE, "absent/x/y"], ["there is no model folder absent/x/y"]),
        ([BASE, TUNED, "--draws", -1], ["draws is -1"]),
        ([BASE, TUNED, "--draws", 3, "--no-null"], ["--no-null draws nothing", "--draws 3"]),
        ([BASE, TUNED, "bundled:tiny-arithmetic/student", "-o", "out"], ["not a sibling"]),
        ([BASE, TUNED, "--device", "cuda:9"], ["the device cuda:9 cannot be used here"]),
        ([BASE, TUNED, "--include", "visoin"], ["no tensor matches 'visoin'"]),
        ([BASE, "bundled:tiny-arithmetic/student", "-o", "out"], ["not a sibling"]),
        ([BASE, TUNED, TUNED, "--fp32-master", TUNED], ["--fp32-master belongs to one update"]),
        ([BASE, TUNED, "-o", "full"], ["full already holds files"]),
    ],
)
def test_what_is_refused(here: Path, sparseopd: Command, words: list, parts: list[str]) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    refused(sparseopd("analyze", *words), *parts)
    assert [path.name for path in here.iterdir()] == ["full"]
    assert list(files_of(here)) == ["full/mine.txt"]


def test_a_weight_that_is_not_finite_is_named(here: Path, sparseopd: Command) -> None:
    other = Path(shutil.copytree(TUNED, "other"))
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    words = ["analyze", BASE, "other", "-o", "out"]
    refused(sparseopd(*words), "model.norm.weight of other is not finite")
    done(sparseopd("analyze", BASE, "other", "--exclude", "model.norm.weight", "--no-null"))


@pytest.fixture
def run(here: Path) -> RunDir:
    """A run whose student has a tensor that its checkpoint lacks."""
    shutil.copytree(BASE, "student")
    weights = load_file("student/model.safetensors")
    save_file(weights | {"unused.weight": torch.ones(4, 4)}, "student/model.safetensors")
    Path("prompts.jsonl").write_text('{"prompt": "1+1="}')
    recipe = recipes.build(
        {
            "student": {"path": "student", "revision": "v1"},
            "teacher": "student",
            "data": {"train": "prompts.jsonl"},
        }
    )
    run = RunDir("run")
    run.path.mkdir()
    run.recipe.write_text(recipe.to_yaml())
    shutil.copytree(TUNED, run.checkpoint)
    facts = {"kind": "full", "name": "r", "student": "student", "teacher": "student"}
    run.write_facts(RunFacts(**facts, steps=4, lr=1.0, seed=0, seconds=1.0))
    return run


def test_a_run_is_compared_with_what_it_uses_of_its_student(
    run: RunDir, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["sparseopd.analysis.course"]
    asked, find_weights = [], module.weights_folder

    def noted(path: str, revision: str | None = None) -> Path:
        asked.append((path, revision))
        return find_weights(path, revision)

    monkeypatch.setattr(module, "weights_folder", noted)
    done(sparseopd("analyze", "run", "--no-null"))
    assert {(Path(path).name, revision) for path, revision in asked} == {("student", "v1")}
    found = Analysis.load(Path("run/analysis/analysis.json"))
    assert Path(found.base).name == "student"
    assert "unused.weight" not in [row["name"] for row in found.tensors]


def test_runs_from_other_revisions_of_a_student_are_refused(
    run: RunDir, sparseopd: Command
) -> None:
    shutil.copytree("run", "second")
    recipe = Path("second/recipe.yaml")
    recipe.write_text(recipe.read_text().replace("revision: v1", "revision: v2"))
    refused(
        sparseopd("analyze", "run", "second"), "different students: ", "student@v1, ", "student@v2"
    )


def test_a_run_beside_another_base_is_a_model_like_any(run: RunDir, sparseopd: Command) -> None:
    shutil.copytree(TUNED, run.kept_weights(2))
    before = files_of(Path())
    ran = done(sparseopd("analyze", BASE, "run", "--no-null", "--json"))
    assert files_of(Path()) == before and json.loads(ran.out)["course"] == []


def changed(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("what", ["base", "tuned", "master", "version", "settings"])
def test_a_finished_analysis_of_what_has_changed_is_refused(
    here: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in (("base", BASE), ("tuned", TUNED), ("master", TUNED)):
        shutil.copytree(source, name)
    wide = {name: one.float() for name, one in load_file("master/model.safetensors").items()}
    save_file(wide, "master/model.safetensors")
    calls = []
    module = sys.modules["sparseopd.analyses"]
    monkeypatch.setattr(module, "analyze", lambda *a, **k: (calls.append(a), analyze(*a, **k))[1])

    def analysed(**settings) -> Analysis:
        request = analyses.find(["base", "tuned"])
        asked = AnalysisSettings(draws=0, include=("norm",), **settings)
        outcome = analyses.run_analyses(
            request, master="master", settings=asked, folder=Path("out")
        )
        return outcome.analyses[0]

    first = analysed()
    Path("out/analysis.html").unlink()
    assert analysed() == first and len(calls) == 1, "what is the same is used"
    Path("out/analysis.html").unlink()
    if what == "version":
        monkeypatch.setattr("sparseopd.__version__", "0.0.0")
    elif what != "settings":
        changed(Path(what))
    with pytest.raises(RunFolderError, match="holds an analysis of base and tuned of other files"):
        analysed(**({"seed": 1} if what == "settings" else {}))


@pytest.mark.parametrize(
    "words, names",
    [
        (["/model", "/data/model"], ["model", "data-model"]),
        (["/one/model", "/two/model"], ["one-model", "two-model"]),
        ([".."], ["update-1"]),
        (["."], ["update-1"]),
        (["/"], ["update-1"]),
        (["../../tuned", "other/."], ["tuned", "other"]),
        (["hub:a\\b", "c"], ["hub-a-b", "c"]),
        (["same", "same"], ["update-1", "update-2"]),
    ],
)
def test_updates_are_called_by_the_ends_of_their_paths(words: list[str], names: list[str]) -> None:
    assert [one.name for one in analyses.find([str(BASE), *words]).tuned] == names


def test_a_refused_request_on_several_leaves_the_folder_free(
    here: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out").mkdir()
    calls = []
    monkeypatch.setattr(analyses, "analyze", lambda *a, **k: calls.append(a))
    words = ["analyze", BASE, TUNED, "bundled:tiny-arithmetic/student", "-o", "out"]
    refused(sparseopd(*words), "not a sibling")
    assert not calls, "all are looked at before the first is analysed"
    monkeypatch.setattr(analyses, "analyze", analyze)
    shutil.copytree(TUNED, "other")
    words = ["analyze", BASE, TUNED, "other", "-o", "out"]
    refused(sparseopd(*words, "--device", "cuda:9"), "the device cuda:9")
    assert list(Path("out").iterdir()) == [], "nor is a folder of an update left"
    done(sparseopd(*words, "--no-null"))


def test_an_interrupt_before_anything_is_finished_promises_nothing(
    here: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["sparseopd.analysis.analyze"], "measure", interrupted)
    ran = sparseopd("analyze", BASE, TUNED, "-o", "out")
    assert ran.code == 130 and "interrupted" in ran.err
    assert "kept" not in ran.err and not Path("out").exists()


def test_threads_share_what_the_allocator_holds(
    here: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def stopped(*_args: object, **_settings: object) -> None:
        order.append("work")
        raise RequestError("enough")

    monkeypatch.setattr(
        "sparseopd.analysis.allocator.share_one_arena", lambda: order.append("share")
    )
    monkeypatch.setattr(analyses, "run_analyses", stopped)
    refused(sparseopd("analyze", BASE, TUNED), "enough")
    assert order == ["share", "work"]
