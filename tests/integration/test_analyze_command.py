"""The analyze command on real files: models, runs, several of them, interrupted, refused."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparseopd.analysis import Analysis, analyze
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
    assert "Sparser than a dense update of the same norm: 72.8 % of the coordinates moved by" in told
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


def test_several_updates(here: Path, sparseopd: Command) -> None:
    other = Path(shutil.copytree(TUNED, "other"))
    weights = load_file(other / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].float().add(0.01).bfloat16()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    ran = done(sparseopd("analyze", BASE, TUNED, "other", "-o", "out", "--draws", 2, "--json"))
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
