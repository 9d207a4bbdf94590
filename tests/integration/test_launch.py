"""Two processes under `accelerate launch` find a mask and train it as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir
from sparseopd.distill.checkpoint import changed_off_mask
from sparseopd.masks import Mask
from sparseopd.pairs import load_model
from tests.integration.conftest import Command

ROOT = Path(__file__).parents[2]
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2",
    "--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--multi_gpu", "-m", "sparseopd",
]  # fmt: skip
SETTINGS = ["train.batch_size=32", "train.steps=12", "discover.steps=6", "data.limit=512"]


def launched(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*LAUNCH, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("launched")
    ran = launched(
        "discover", "tiny-arithmetic", *SETTINGS, "--snapshots", "3", "-o", folder / "found"
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stderr.count("mask of") == 1  # only one of them speaks
    mask = folder / "found" / "mask.safetensors"
    words = ["train", folder / "found", "--mask", mask, "-o", folder / "sparse", "--json"]
    ran = launched(*words)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count('"kind": "masked"') == 1
    return folder


def test_masks_have_the_same_density_and_mostly_the_same_coordinates(
    folder: Path, tmp_path: Path, sparseopd: Command
) -> None:
    assert not sparseopd("discover", "tiny-arithmetic", *SETTINGS, "-o", tmp_path / "alone").code
    two, one = (
        Mask.load(path / "mask.safetensors") for path in (folder / "found", tmp_path / "alone")
    )
    assert two.count() == one.count() and two.density() == one.density()
    assert two.jaccard(one) > 0.4  # of two random masks of a tenth: .05


def test_the_loss_falls_as_in_one_process(folder: Path, tmp_path: Path, sparseopd: Command) -> None:
    mask = folder / "found" / "mask.safetensors"
    assert not sparseopd("train", folder / "found", "--mask", mask, "-o", tmp_path / "alone").code
    two, one = (RunDir(path).read_metrics() for path in (folder / "sparse", tmp_path / "alone"))
    assert [row["step"] for row in two] == [row["step"] for row in one] == list(range(1, 13))
    for first, last in ((0, 4), (4, 8), (8, 12)):
        means = [sum(row["loss"] for row in rows[first:last]) / 4 for rows in (two, one)]
        assert means[0] == pytest.approx(means[1], rel=0.15)  # other rollouts of the same students
    assert two[-1]["loss"] < 0.8 * two[0]["loss"]


def test_every_bit_off_the_mask_is_the_sources(folder: Path) -> None:
    run = RunDir(folder / "sparse")
    recipe = recipes.load(run.recipe)
    source = load_model(recipe.student).bfloat16()  # as it is stored
    assert changed_off_mask(source, run.checkpoint, Mask.load(run.mask)) == []
    assert run.read_facts().kind == "masked" and not run.resume.exists()


def test_batches_that_cannot_be_shared_are_refused_once(tmp_path: Path) -> None:
    ran = launched("train", "tiny-arithmetic", "train.batch_size=5", "-o", tmp_path / "x")
    assert ran.returncode != 0 and not (tmp_path / "x").exists()
    assert ran.stderr.count("train.batch_size 5 cannot be shared by 2 processes") == 1
