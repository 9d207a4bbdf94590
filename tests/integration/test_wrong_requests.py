"""Every wrong request: one sentence, exit code 2, no traceback, nothing written or overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value

from sparseopd.masks import select
from sparseopd.pairs import tiny
from tests.integration.conftest import Command, Ran, files_of


def refused(ran: Ran, *parts: str) -> None:
    assert ran.code == 2, ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran.err
    for part in parts:
        assert part in ran.err, ran.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in; a wrong request must leave it empty."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


@pytest.mark.parametrize(
    "words, parts",
    [
        (
            ["train", "tiny-arithmetic", "optimizer.lrr=1", "-o", "x"],
            ["optimizer.lrr", "did you mean optimizer.lr?"],
        ),
        (["train", "absent.yaml", "-o", "x"], ["cannot read the recipe absent.yaml"]),
        (["train", "tiny-arithmetic"], ["give the new run a folder with -o"]),
        (["train", "absent", "--resume"], ["absent is not a training run that stopped"]),
        (["train", "--resume"], ["give its folder and nothing else"]),
        (["train", "run", "--resume", "-o", "x"], ["give its folder and nothing else"]),
        (["train", "run", "--resume", "--steps", "5"], ["give its folder and nothing else"]),
        (
            ["train", "tiny-arithmetic", "optimizer.groups=[{match: [norm], lrr: 1}]", "-o", "x"],
            ["unknown recipe key optimizer.groups.0.lrr", "did you mean optimizer.groups.0.lr?"],
        ),
        (
            ["train", "tiny-arithmetic", "optimizer.groups=[{match: [norm]}]", "-o", "x"],
            ["optimizer.groups.0 changes nothing"],
        ),
        *(
            (
                [stage, "tiny-arithmetic", "optimizer.groups=[{match: [bias*], lr: 1}]", "-o", "x"],
                ["optimizer.groups: no parameter matches 'bias*'"],
            )
            for stage in ("discover", "train")
        ),
        (
            ["train", "tiny-arithmetic", "optimizer.stochastic_rounding=true", "-o", "x"],
            ["does nothing with student.dtype float32"],
        ),
        (
            ["train", "tiny-arithmetic", "optimizer.name=adafactor", "optimizer.betas=[.9,.9]"],
            ["optimizer.betas does nothing with adafactor"],
        ),
        (
            ["train", "tiny-arithmetic", "rollout.vllm=colocate", "-o", "x"],
            ["rollout.vllm=colocate needs vLLM here"],
        ),
        (
            [
                "train",
                "tiny-arithmetic",
                "objective.kind=teacher-top-k",
                "teacher.server=http://127.0.0.1:9",
                "-o",
                "x",
            ],
            ["a teacher on a server needs vLLM here"],
        ),
        (
            [
                "train",
                "tiny-digits",
                "objective.kind=sampled-token",
                "teacher.server=http://127.0.0.1:9",
                "-o",
                "x",
            ],
            ["needs vLLM here"],
        ),
        (
            ["train", "tiny-arithmetic", "objective={kind: grpo}", "data.grader=none", "-o", "x"],
            ["rollout.samples is 1"],
        ),
        (
            [
                "train",
                "tiny-arithmetic",
                "objective.kind=grpo",
                "rollout.samples=4",
                "data.grader=none",
                "-o",
                "x",
            ],
            ["grpo needs graded prompts"],
        ),
        (["discover", "-o", "x"], ["the recipe lacks student"]),
        (["discover", "tiny-arithmetic", "--density", "0", "-o", "x"], ["discover.density is 0"]),
        (
            ["discover", "tiny-arithmetic", "--density", "1.5", "-o", "x"],
            ["discover.density is 1.5"],
        ),
        (
            ["discover", "tiny-arithmetic", "--selector", "best", "-o", "x"],
            ["discover.selector is 'best'", "'threshold', 'changed'"],
        ),
        (
            ["discover", "tiny-arithmetic", "--student", "./absent", "-o", "x"],
            ["there is no model folder"],
        ),
        (
            ["discover", "tiny-arithmetic", "--student", "nobody/nothing", "-o", "x"],
            ["nobody/nothing"],
        ),
        (
            [
                "discover",
                "tiny-arithmetic",
                "--data",
                "./absent.jsonl",
                "data.test=null",
                "-o",
                "x",
            ],
            ["absent.jsonl"],
        ),
        (
            ["discover", "tiny-arithmetic", "--teacher", "bundled:tiny-digits/teacher", "-o", "x"],
            ["different vocabularies"],
        ),
        (["discover", "tiny-arithmetic", "student.dtype=bfloat16", "-o", "x"], ["fp32 masters"]),
        (["train", "tiny-arithmetic", "student.dtype=bfloat16", "-o", "x"], ["fp32 masters"]),
        (["train", "tiny-arithmetic", "--mask", "absent.safetensors", "-o", "x"], ["no mask file"]),
        (["train", "tiny-arithmetic", "data.grader=bset", "-o", "x"], ["bset"]),
        (["train", "tiny-arithmetic", "data.prompt=qestion", "-o", "x"], ["qestion"]),
        (["train", "tiny-arithmetic", "train.batch_size=5000", "-o", "x"], ["fewer than", "5000"]),
        (["evaluate", "absent"], ["absent"]),
        (["evaluate", "--recipe", "tiny-arithmetic", "./absent"], ["absent"]),
        (["mask", "show", "absent"], ["no mask file absent"]),
        (
            ["mask", "select", "bundled:tiny-arithmetic/student", "-o", "m"],
            ["needs a tuned model beside the base"],
        ),
        (
            [
                "mask",
                "select",
                "bundled:tiny-arithmetic/student",
                "bundled:tiny-digits/student",
                "-o",
                "m",
            ],
            ["not a sibling"],
        ),
        (["mask", "select", "./absent", "x", "-o", "m"], ["there is no model folder ./absent"]),
        (["mask", "select", "nobody/nothing", "x", "-o", "m"], ["nobody/nothing", "the hub"]),
        (
            [
                "mask",
                "select",
                "bundled:tiny-arithmetic/student",
                "--selector",
                "random",
                "--k",
                "1",
                "--density",
                "0.1",
                "-o",
                "m",
            ],
            ["density and k"],
        ),
        (
            [
                "mask",
                "select",
                "bundled:tiny-arithmetic/student",
                "--selector",
                "random",
                "--eta",
                "1",
                "-o",
                "m",
            ],
            ["choose changed"],
        ),
        (
            [
                "mask",
                "select",
                "bundled:tiny-arithmetic/student",
                "--selector",
                "random",
                "--include",
                "mlp",
                "-o",
                "m",
            ],
            ["no tensor matches 'mlp'", "ffn"],
        ),
        (
            [
                "mask",
                "select",
                "bundled:tiny-arithmetic/student",
                "bundled:tiny-arithmetic/student",
                "--selector",
                "threshold",
                "-o",
                "m",
            ],
            ["chose none"],
        ),
        (
            [
                "mask",
                "select",
                "bundled:tiny-arithmetic/student",
                "--selector",
                "random",
                "-o",
                "no/m",
            ],
            ["there is no folder no"],
        ),
        (["mask", "overlap", "absent", "absent"], ["no mask file absent"]),
        (["mask", "combine", "union", "absent", "absent", "-o", "m"], ["no mask file absent"]),
        (["discover", "tiny-arithmetic", "--snapshots", "5,99", "-o", "x"], ["step 99", "is 30"]),
        (["discover", "tiny-arithmetic", "--snapshots", "5,x", "-o", "x"], ["discover.snapshots"]),
        (["discover", "tiny-arithmetic", "--until-stable", "2", "-o", "x"], ["until_stable is 2"]),
        (
            ["discover", "tiny-arithmetic", "discover.exclude=['*']", "-o", "x"],
            ["nothing is left in scope"],
        ),
        (["demo", "--pair", "tiny-poetry"], ["tiny-poetry"]),
    ],
)
def test_refused(words: list[str], parts: list[str], place: Path, sparseopd: Command) -> None:
    refused(sparseopd(*words), *parts)
    assert list(place.iterdir()) == []


def pictures(counts: list[int], file: Path) -> Path:
    """Rows that differ in how many pictures they have."""
    rows = Dataset.from_parquet(str(tiny.folder("tiny-digits") / "train.parquet"))
    several = [
        {
            "images": [rows[row]["image"]] * count,  # pyright: ignore
            "prompt": "which digit is it?",
            "answer": rows[row]["answer"],  # pyright: ignore
        }
        for row, count in enumerate(counts)
    ]
    features = Features(
        {"images": List(Image()), "prompt": Value("string"), "answer": Value("string")}
    )
    Dataset.from_list(several, features=features).to_parquet(file)
    return file


def test_pictures_that_trl_cannot_batch(place: Path, tmp_path: Path, sparseopd: Command) -> None:
    words = ["train", "tiny-digits", "train.batch_size=4", "data.test=null", "data.holdout=8"]
    mixed = pictures([1, 0] * 16, tmp_path / "mixed.parquet")
    refused(
        sparseopd(*words, f"data.train={mixed}", "-o", "x"), "12 of 24 training prompts", "no image"
    )
    two = pictures([2] * 32, tmp_path / "two.parquet")
    refused(
        sparseopd(*words, f"data.train={two}", "rollout.batch_size=2", "-o", "x"),
        "rollout.batch_size needs one image a prompt",
    )
    assert list(place.iterdir()) == []
    assert sparseopd(*words, f"data.train={two}", "train.steps=2", "-o", "x").code == 0


def test_a_mask_over_frozen_weights(place: Path, tmp_path: Path, sparseopd: Command) -> None:
    mask = tmp_path / "mask.safetensors"
    select("bundled:tiny-arithmetic/student", selector="random", density=0.1).save(mask)
    words = ["train", "tiny-arithmetic", "train.freeze=[ffn]", "--mask", mask, "-o", "x"]
    refused(sparseopd(*words), "train.freeze covers model.layers.0.mlp")
    assert list(place.iterdir()) == []


def test_an_empty_data_set(place: Path, tmp_path: Path, sparseopd: Command) -> None:
    (tmp_path / "none.jsonl").write_text("")
    refused(
        sparseopd("discover", "tiny-arithmetic", "--data", tmp_path / "none.jsonl", "-o", "x"),
        "none.jsonl",
    )
    assert list(place.iterdir()) == []


def test_a_mask_of_another_model(place: Path, tmp_path: Path, sparseopd: Command) -> None:
    mask = tmp_path / "mask.safetensors"
    select("bundled:tiny-arithmetic-sibling/teacher", selector="random").save(mask)
    refused(
        sparseopd("train", "tiny-arithmetic", "--mask", mask, "-o", "x"), "made for other weights"
    )
    select("bundled:tiny-digits/student", selector="random").save(mask)
    refused(
        sparseopd("train", "tiny-arithmetic", "--mask", mask, "-o", "x"),
        "discover a mask for this model",
    )
    assert list(place.iterdir()) == []


def test_masks_and_devices_that_cannot_train(
    place: Path, tmp_path: Path, sparseopd: Command
) -> None:
    mask = tmp_path / "mask.safetensors"
    one = select("bundled:tiny-arithmetic/student", selector="random", density=0.1)
    (one - one).save(mask)
    refused(sparseopd("train", "tiny-arithmetic", "--mask", mask, "-o", "x"), "the mask is empty")
    (~one).save(mask)
    refused(
        sparseopd(
            "train",
            "tiny-arithmetic",
            "optimizer.sampled_gradients=true",
            "--mask",
            mask,
            "-o",
            "x",
        ),
        "at most 12.5 %, and there is none",
    )
    one.save(mask)
    words = ["student.dtype=float16", "--mask", mask, "-o", "x"]
    refused(sparseopd("train", "tiny-arithmetic", *words), "would be rounded to torch.float16")
    refused(
        sparseopd("discover", "tiny-arithmetic", "--density", "1e-9", "-o", "x"), "rounds to none"
    )
    if not torch.cuda.is_available():
        refused(
            sparseopd("train", "tiny-arithmetic", "device=cuda", "-o", "x"), "'cuda' cannot be used"
        )
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("command", ["discover", "train", "demo", "evaluate"])
def test_a_folder_that_holds_a_run(command: str, tmp_path: Path, sparseopd: Command) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"kind": "full"}))
    before = files_of(tmp_path)
    words = {
        "demo": [],
        "evaluate": ["--recipe", "tiny-arithmetic", "bundled:tiny-arithmetic/student"],
    }
    refused(
        sparseopd(command, *words.get(command, ["tiny-arithmetic"]), "-o", tmp_path),
        "already holds files",
    )
    assert files_of(tmp_path) == before


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch, sparseopd: Command) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    ran = sparseopd("train", "tiny-arithmetic", "-o", "x")
    refused(ran, "MB free and this run writes about")
    assert files_of(place) == {}


def test_scores_of_an_unfinished_run(tmp_path: Path, sparseopd: Command) -> None:
    (tmp_path / "recipe.yaml").write_text("student: a\n")
    refused(sparseopd("evaluate", tmp_path, "--recipe", "tiny-arithmetic"), str(tmp_path.name))


def test_usage_errors_also_end_in_two(sparseopd: Command) -> None:
    assert sparseopd("train", "--no-such-option").code == 2
    assert sparseopd("evaluate").code == 2
