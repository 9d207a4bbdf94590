"""`sparseopd compare` as a user runs it: planned, run by workers, killed, begun again, reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparseopd.results import Results
from tests.integration.conftest import Command

RECIPE = """
name: short
seeds: [0, 1]
workers: 2
threads: 1
tune: {prompts: 16, samples: 1, trials: 2}
studies:
  sums:
    recipe: tiny-arithmetic
    setting: large → small
    other_task: bundled:other-tasks/three-numbers.jsonl
    settings:
      - train.steps=3
      - train.batch_size=8
      - discover.steps=2
      - evaluate.prompts=24
      - evaluate.samples=2
      - optimizer.telemetry_every=1
      - device=cpu
    explore:
      sft: {settings: [objective.kind=sft]}
    geometry: [opd]
    overlaps: {methods: [[opd, sft]]}
    settling: true
    arms:
      full OPD: {kind: full}
      found: {mask: {density: 0.1}}
      random: {mask: {selector: random, like: tensor}}
      too fast: {kind: full, settings: [optimizer.name=sgd], rates: [1e30]}
"""


def words(recipe: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "sparseopd", "compare", str(recipe), "-o", str(folder), *more]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("compare") / "short.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """The folder of a comparison that nothing disturbed."""
    folder = recipe.parent / "finished"
    ran = subprocess.run(words(recipe, folder), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (folder / "said.txt").write_text(ran.stderr)
    return folder


def test_the_plan_comes_first_and_the_answer_last(finished: Path) -> None:
    said = (finished / "said.txt").read_text()
    assert said.index("planning:") < said.index("trainings") < said.index("report:")
    assert "about" in said and "2 workers" in said
    assert (finished / "report.html").stat().st_size > 10_000
    assert list((finished / "csv").glob("*.csv"))


def test_every_arm_is_measured_with_every_seed_at_its_best_rate(finished: Path) -> None:
    [study] = Results.load(finished / "comparison.json").studies
    names = ["source", "full OPD", "found", "random", "too fast", "teacher"]
    assert [arm.name for arm in study.arms] == names
    for arm in study.arms:
        assert [one.seed for one in arm.seeds] == [0, 1]
        assert all(0 <= right <= 2 for one in arm.seeds for right in one.right)
        assert arm.accuracy is not None and set(arm.pass_at) == {"1", "2"}
    for arm in study.arms[1:4]:
        assert len(arm.trials) == 2 and arm.lr in [trial.lr for trial in arm.trials]
        best = max(arm.trials, key=lambda trial: (trial.accuracy, -(trial.kl or 0)))
        assert arm.lr == best.lr
        assert all(one.forgetting is not None for one in arm.seeds)
    found, random = study.arm("found"), study.arm("random")
    assert found.k == random.k and found.chosen == "discovered"
    assert found.superiority is not None and found.superiority.against == "random"
    assert found.equivalence is not None and found.equivalence.margin == 0.03
    assert found.seeds[0].agreement.keys() == {"1e-05", "1e-04"}
    assert found.costs.shipped_bytes is not None and study.arm("full OPD").costs.shipped_bytes
    assert found.costs.shipped_bytes < study.arm("full OPD").costs.shipped_bytes / 3
    assert {row.side for row in study.geometry} == {"observed", "master", "shuffled", "gaussian"}
    assert {row.question for row in study.overlaps} == {"methods", "seeds"}
    assert {row.of for row in study.overlaps} == {"support", "top 10 %"}
    assert [row.steps for row in study.settling] == [2, 2]
    assert {row.optimizer for row in study.telemetry} == {"adamw"}


def test_a_rate_at_which_training_fails_is_a_finding(finished: Path) -> None:
    [study] = Results.load(finished / "comparison.json").studies
    fast = study.arm("too fast")
    assert fast.accuracy is not None and fast.accuracy.mean <= 0.05
    assert fast.superiority is None


def test_what_is_finished_is_not_done_again(finished: Path, sparseopd: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*")}
    ran = sparseopd("compare", finished.parent / "short.yaml", "-o", finished, "--json")
    assert ran.code == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*")} == before
    assert json.loads(ran.out)["name"] == "short"


@pytest.mark.parametrize(("number", "lines"), [("SIGKILL", 3), ("SIGTERM", 2)])
def test_a_comparison_stopped_anywhere_ends_in_the_same_report(
    number: str, lines: int, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        words(recipe, folder), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += line.startswith("compare: ")
        if seen == lines:
            break
    process.send_signal(getattr(signal, number))
    rest = process.stderr.read()  # until the workers are gone too
    code = process.wait()
    assert not (folder / "comparison.json").exists()
    if number == "SIGTERM":
        assert code == 130 and "the same line goes on with what is left" in rest
    else:
        assert code == -signal.SIGKILL
    ran = subprocess.run(words(recipe, folder), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert list(differences(told(folder), told(finished))) == []
    masks = {path.name: path.read_bytes() for path in (finished / "masks").iterdir()}
    assert {path.name: path.read_bytes() for path in (folder / "masks").iterdir()} == masks


def told(folder: Path) -> Any:
    """All of the results but the times that were measured, and the words that named the folder."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_times(item) for key, item in value.items() if key != "seconds"}
        return [without_times(item) for item in value] if isinstance(value, list) else value

    found = without_times(json.loads((folder / "comparison.json").read_text()))
    del found["command"]
    return found


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two values differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}.{number}")
    elif one != other:
        yield f"{place}: {one} and {other}"


def test_a_second_process_on_the_same_folder_is_refused(
    finished: Path, recipe: Path, sparseopd: Command
) -> None:
    import fcntl

    with (finished / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = sparseopd("compare", recipe, "-o", finished)
    assert ran.code == 2
    assert f"another process is working on {finished}" in ran.err.replace("\n", " ")


def test_a_dry_run_prints_a_comparison_that_loads_and_writes_nothing(
    finished: Path, recipe: Path, tmp_path: Path, sparseopd: Command
) -> None:
    ran = sparseopd("compare", recipe, "-o", finished, "--dry-run", "seeds=[5]")
    assert ran.code == 0 and "jobs done" in ran.err
    again = tmp_path / "again.yaml"
    again.write_text(ran.out)
    assert "seeds:\n- 5" in ran.out
    assert sorted(os.listdir(tmp_path)) == ["again.yaml"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["nowhere.yaml"], "cannot read the recipe nowhere.yaml"),
        (["tiny-arithmetic", "seed=3"], "is one seed, and a comparison has several"),
        (["tiny-arithmetic", "tune.trails=3"], "did you mean tune.trials?"),
        (["tiny-arithmetic", "--workers", "0"], "workers"),
        (["tiny-arithmetic", "student.path=./nothing"], "there is no"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    given: Sequence[str], sentence: str, tmp_path: Path, sparseopd: Command
) -> None:
    ran = sparseopd("compare", *given, "-o", tmp_path / "out")
    assert ran.code == 2 and not ran.out
    assert sentence in ran.err.replace("\n", " ") and "Traceback" not in ran.err
    assert not (tmp_path / "out").exists()
