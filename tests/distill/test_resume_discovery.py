"""A discovery that stopped ends, once resumed, in the mask and the figures of one that never did."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerState

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir, write_json
from sparseopd.distill import discover, train
from sparseopd.distill import resume as resume_training
from sparseopd.distill.discover import resume
from sparseopd.distill.interrupt import Interrupts
from sparseopd.distill.opd import OPDTrainer
from sparseopd.distill.resume import find_stopped, mark_started
from sparseopd.errors import RunFolderError
from sparseopd.recipe import Recipe
from tests.distill.test_resume_runs import Killed, figures, stop_after
from tests.integration.conftest import files_of

SHORT = [
    "train.batch_size=8", "train.micro_batch_size=4", "train.save_every=2", "data.limit=24",
    "optimizer.schedule=linear", "discover.steps=7", "discover.check_every=3",
]  # fmt: skip
"""Two passes a step, states between checks, and three batches an epoch."""

CASES = {
    "top-k": ("tiny-arithmetic", ["discover.snapshots=[1,4,5]"]),
    "missed-snapshots": (
        "tiny-arithmetic",
        [
            "discover.selector=threshold", "discover.density=null", "discover.threshold=4e-4",
            "discover.snapshots=[1,7]",
        ],
    ),
    "momentum": ("tiny-arithmetic", ["discover.selector=saliency", "discover.saliency=momentum"]),
    "images-unsettled": (
        "tiny-digits",
        ["discover.snapshots=[2]", "discover.until_stable=1", "discover.density=null", "discover.k=99"],
    ),
}  # fmt: skip
"""What is discovered how; the third and the sixth step end an epoch."""

SETTLES = ["discover.until_stable=0.2", "discover.check_every=2"]
"""The mask has settled before the last step, where a state is kept."""


def small(pair: str, *settings: str) -> Recipe:
    return recipes.load(recipes.find(pair), [*SHORT, *settings])


def assert_same(whole: RunDir, run: RunDir, resumed_after: int) -> None:
    """Every file of two runs is the same, apart from what a clock said and the note of the resumption."""
    one, other = files_of(whole.path), files_of(run.path)
    assert one.keys() == other.keys()
    assert "mask.safetensors" in one and "delta.json" in one
    timed = {whole.metrics.name, whole.facts.name, whole.completions.name}
    assert [name for name in one if name not in timed and one[name] != other[name]] == []
    assert figures(whole) == figures(run)
    facts = run.read_facts()
    note = f"resumed after step {resumed_after}"
    assert [text for text in facts.notes if text != note] == whole.read_facts().notes
    assert note in facts.notes
    assert facts.steps == whole.read_facts().steps
    assert facts.mask == whole.read_facts().mask
    assert facts.final["loss"] == whole.read_facts().final["loss"]


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_discovery_ends_in_the_same_bits(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, settings = CASES[case]
    recipe = small(pair, *settings)
    whole = discover(recipe, tmp_path / "whole")
    assert bool(whole.read_facts().notes) == (case in ("images-unsettled", "missed-snapshots"))
    run = RunDir(tmp_path / "stopped")
    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stop_after(stopped, 5)  # in the third step
        discover(recipe, run.path)
    assert json.loads(run.started.read_text())["stage"] == "discover"
    for _ in range(
        2
    ):  # in the fifth and in the seventh, with the states of the second and the fourth
        with monkeypatch.context() as stopped, pytest.raises(Killed):
            stop_after(stopped, 5)
            resume(run.path)
        assert not run.facts.exists()
    resume(run.path)
    assert_same(whole, run, resumed_after=6)


def kill(*_: Any, **__: Any) -> None:
    raise Killed


class Nth:
    """Calls a function, and is killed at the second call: in the midst of the state of step 4."""

    def __init__(self, before: Any, instead: Any = kill) -> None:
        self.before, self.instead, self.calls = before, instead, 0

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        self.calls += 1
        return (self.before if self.calls == 1 else self.instead)(*inputs, **settings)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return lambda *inputs, **settings: self(instance, *inputs, **settings)


def cut_short(state: TrainerState, path: str) -> None:
    """Write the beginning of trainer_state.json."""
    Path(path).write_text('{"global_step"')
    raise Killed


WATCH = importlib.import_module("sparseopd.distill.watch")
MOMENTS = {
    "with the masks but not what else is known": (WATCH, "write_json", kill, 2),
    "with all of ours and nothing of Trainer's": (OPDTrainer, "save_model", kill, 2),
    "with half of trainer_state.json": (TrainerState, "save_to_json", cut_short, 2),
    "with all of it": (Interrupts, "on_save", kill, 4),
}
"""What is killed while the state of step 4 is written, how, and the step that is gone on from."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_state_is_whole_or_not_gone_on_from(
    moment: str, whole: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, instead, step = MOMENTS[moment]
    run = RunDir(tmp_path / "stopped")
    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stopped.setattr(owner, name, Nth(getattr(owner, name), instead))
        discover(recipes.load(whole.recipe), run.path)
    assert (run.resume / "checkpoint-4" / "callbacks").is_dir()
    assert (run.resume / "checkpoint-2").exists() == (step == 2)
    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stop_after(stopped, 0)
        resume(run.path)
    checked = [json.loads(line)["step"] for line in run.stability.read_text().splitlines()]
    assert max(checked) == run.read_metrics()[-1]["step"] == step  # what came later is dropped
    kept = {path.name for path in run.snapshot(1).parent.iterdir()}
    assert kept == {f"step-{one}.safetensors" for one in (1, 4) if one <= step}
    resume(run.path)
    assert_same(whole, run, resumed_after=step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A discovery that never stopped, with all that a state has to hold."""
    settings = [
        "discover.selector=saliency",
        "discover.snapshots=[1,4,5]",
        "discover.check_every=1",
    ]
    return discover(small("tiny-arithmetic", *settings), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(
    "settings",
    [
        SETTLES,
        ["discover.selector=saliency"],
        ["discover.selector=saliency", "discover.saliency=momentum"],
    ],
    ids=["settled", "gradient", "momentum"],
)
def test_a_discovery_killed_at_its_very_end_takes_no_step_more(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("tiny-arithmetic", *settings)
    whole = discover(recipe, tmp_path / "whole")
    steps = whole.read_facts().steps
    assert (steps < 7) == (settings == SETTLES)
    module = importlib.import_module("sparseopd.distill.discover")
    run = RunDir(tmp_path / "stopped")
    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stopped.setattr(module, "summarize_update", kill)
        discover(recipe, run.path)
    assert run.mask.exists() and not run.facts.exists()
    stop_after(monkeypatch, 0)  # any step would be one too many
    resume(run.path)
    assert_same(whole, run, resumed_after=steps)


def test_a_training_run_killed_at_its_very_end_takes_no_step_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("tiny-arithmetic", "train.steps=2")
    module = importlib.import_module("sparseopd.distill.train")
    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stopped.setattr(module, "save_checkpoint", kill)
        train(recipe, tmp_path / "run")
    stop_after(monkeypatch, 0)
    run = resume_training(tmp_path / "run")
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    assert run.read_facts().final == run.read_metrics()[-1]


def test_later_epochs_of_a_resumed_run_have_their_own_order_of_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("tiny-arithmetic", "objective.kind=grpo", "rollout.samples=2", "train.steps=5")
    whole = train(recipe, tmp_path / "whole")
    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stopped.setattr(Interrupts, "on_save", Nth(Interrupts.on_save))
        train(recipe, tmp_path / "stopped")
    run = resume_training(tmp_path / "stopped")
    assert "resumed after step 4" in run.read_facts().notes
    assert figures(run) == figures(whole)


def test_runs_of_fewer_steps_than_are_logged_end_without_figures(tmp_path: Path) -> None:
    recipe = small("tiny-arithmetic", "train.log_every=9", "train.steps=1", "discover.steps=1")
    assert discover(recipe, tmp_path / "found").read_facts().final == {}
    assert train(recipe, tmp_path / "trained").read_facts().final == {}


def test_what_cannot_be_gone_on_with_is_refused(
    whole: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not whole.started.exists() and not whole.resume.exists()
    with pytest.raises(RunFolderError, match="has ended: there is nothing to resume"):
        resume(whole.path)
    with pytest.raises(RunFolderError, match="is not a discovery that stopped"):
        resume(tmp_path / "missing")
    stop_after(monkeypatch, 0)
    with pytest.raises(Killed):
        discover(recipes.load(whole.recipe), tmp_path / "early")
    with pytest.raises(RunFolderError, match=r"kept no state .*discover with train\.save_every=N"):
        resume(tmp_path / "early")


def test_each_stage_names_the_command_that_goes_on_with_the_other(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a run")
    run.create()
    mark_started(run, "discover")
    command = f"sparseopd discover '{run.path}' --resume"
    with pytest.raises(RunFolderError, match=f"is a discovery: go on with {command}"):
        resume_training(run.path)
    for started in ({"stage": "train", "name": None}, {"name": None}):  # older ones name no stage
        write_json(run.started, started)
        command = f"sparseopd train '{run.path}' --resume"
        with pytest.raises(RunFolderError, match=f"is a training run: go on with {command}"):
            resume(run.path)


def test_a_selector_that_trains_nothing_has_nothing_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("sparseopd.distill.discover")
    monkeypatch.setattr(module, "select", kill)
    with pytest.raises(Killed):
        discover(
            small("tiny-arithmetic", "discover.selector=random", "discover.check_every=null"),
            tmp_path / "run",
        )
    with pytest.raises(RunFolderError, match="random, which trains nothing"):
        resume(tmp_path / "run")


def test_only_the_main_process_removes_what_was_left_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    mark_started(run, "discover")
    for step in (2, 10, 12):
        (run.resume / f"checkpoint-{step}" / "callbacks").mkdir(parents=True)
        if step != 12:
            write_json(
                run.resume / f"checkpoint-{step}" / "trainer_state.json", {"global_step": step}
            )
    before = files_of(tmp_path)
    monkeypatch.setenv("RANK", "1")
    assert find_stopped(run, "discover").step == 10
    assert files_of(tmp_path) == before
    monkeypatch.setenv("RANK", "0")
    assert find_stopped(run, "discover").checkpoint == run.resume / "checkpoint-10"
    assert [path.name for path in run.resume.iterdir()] == ["checkpoint-10"]
