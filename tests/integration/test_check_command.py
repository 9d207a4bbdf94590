"""`sparseopd check`: what a user sees, on a screen of 80 columns and as JSON, and the exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import Qwen3Config

from sparseopd import console
from tests.feasibility.folders import QWEN3_1B7, QWEN3_4B, write_model
from tests.integration.conftest import Command

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A terminal of 80 columns, in an empty folder."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    assert console.console.width == 80


def test_a_bundled_recipe_passes(sparseopd: Command) -> None:
    ran = sparseopd("check", "tiny-arithmetic")
    assert ran.code == 0 and not ran.out
    for part in ("a full run on", "it fits", "student weights", "have the same 102 tokens"):
        assert part in ran.err, ran.err
    assert max(map(len, ran.err.splitlines())) <= 80


def test_it_leaves_nothing_behind(sparseopd: Command, tmp_path: Path) -> None:
    sparseopd("check", "tiny-arithmetic", "-o", "run")
    assert not list(tmp_path.iterdir())


def test_json_says_all_of_it(sparseopd: Command) -> None:
    ran = sparseopd("check", "tiny-digits", "--density", "0.1", "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and set(found) == {
        "findings", "memory", "peak_bytes", "available_bytes", "disk",
    }  # fmt: skip
    assert {"level", "topic", "sentence"} == set(found["findings"][0])
    held = found["memory"].pop("held")
    largest = max(sum(items.values()) for items in found["memory"].values())
    assert found["peak_bytes"] == sum(held.values()) + largest < found["available_bytes"]
    assert found["disk"]["needed_bytes"] < found["disk"]["free_bytes"] and "mask" in found["disk"]


def test_hub_models_pass_offline_as_not_checked(sparseopd: Command) -> None:
    models = ("--student", "Qwen/Qwen3-1.7B", "--teacher", "Qwen/Qwen3-4B", "--data", "org/data")
    ran = sparseopd("check", *models, "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and found["peak_bytes"] is None and found["memory"] == found["disk"] == {}
    said = [finding["sentence"] for finding in found["findings"]]
    assert all(sentence.startswith("not checked: ") for sentence in said) and len(said) == 5
    assert max(map(len, ran.err.splitlines())) <= 80


RECIPES = [
    path
    for path in sorted((ROOT / "recipes").glob("[pt]*/*.yaml"))
    if "studies:" not in path.read_text()  # a comparison is none
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_passes_offline(recipe: Path, sparseopd: Command) -> None:
    ran = sparseopd("check", recipe)
    assert ran.code == 0, ran.err
    assert max(map(len, ran.err.splitlines())) <= 80


def test_real_sizes_are_planned_for_another_device(sparseopd: Command, tmp_path: Path) -> None:
    for name, sizes in (("small", QWEN3_1B7), ("large", QWEN3_4B)):
        write_model(tmp_path / name, Qwen3Config(**sizes))
    words = ("student.path=small", "teacher.path=large", "teacher.dtype=bfloat16", "device=cuda")
    words += ("data.train=org/data", "rollout.max_new_tokens=1024", "train.micro_batch_size=4")
    full = sparseopd("check", *words, "--memory", "24GiB", "--json")
    assert full.code == 2 and "it does not fit: a peak of" in " ".join(full.err.split())
    last = full.err.splitlines()[-1]
    assert last.startswith("error: the run cannot go on: it does not fit: a peak of")
    assert json.loads(full.out)["available_bytes"] == 24 * 2**30
    small = ("student.dtype=bfloat16", "train.gradient_checkpointing=true", "train.batch_size=4")
    sparse = sparseopd("check", *words, *small, "--memory", "24GiB", "--density", "0.1")
    assert sparse.code == 0, sparse.err
    assert re.search(r"training 172,05\d,\d+ of 1.72 B parameters", " ".join(sparse.err.split()))


def test_what_is_impossible_is_told_after_the_report(sparseopd: Command) -> None:
    words = ("teacher.path=bundled:tiny-digits/teacher", "student.dtype=bfloat16")
    ran = sparseopd("check", "tiny-arithmetic", *words)
    assert ran.code == 2
    *report, last = ran.err.splitlines()
    assert last.startswith("error: the run cannot go on: student and teacher differ in 107 tokens")
    assert last.endswith("(and 1 more)") and any("fp32 masters" in line for line in report)
    assert max(map(len, report)) <= 80


def test_a_dry_run_prints_the_recipe_alone(sparseopd: Command) -> None:
    ran = sparseopd("check", "tiny-arithmetic", "train.batch_size=8", "--dry-run")
    assert ran.code == 0 and "batch_size: 8" in ran.out and not ran.err


@pytest.mark.parametrize(
    "words, part",
    [
        (["--memory", "much"], "'much' is not a size"),
        (["--mask", "absent"], "absent"),
        (["--mask", "a", "--density", "0.1"], "give one of them"),
        (["train.batch=8"], "did you mean train.batch_size?"),
    ],
)
def test_wrong_requests_are_one_sentence(words: list[str], part: str, sparseopd: Command) -> None:
    ran = sparseopd("check", "tiny-arithmetic", *words)
    assert ran.code == 2 and ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert part in ran.err
