"""Ctrl-C ends a step, saves a state to go on from, and leaves the signals as they were."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from sparseopd import cli
from sparseopd.artifacts import read_json
from sparseopd.distill import interrupt
from sparseopd.distill.interrupt import Interrupts
from sparseopd.errors import Interrupted

STEPS = 6


class Weight(nn.Module):
    """One weight, drawn to the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.weight - x) ** 2).mean()}


class Sends(TrainerCallback):
    """Sends signals to its own process within a step."""

    def __init__(self, step: int, *signals: signal.Signals) -> None:
        self.step, self.signals = step, signals

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            for number in self.signals:
                os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def unchanged_handlers() -> Iterator[None]:
    """Whatever a test does, the handlers are afterwards those from before."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    assert after == before


def train(folder: Path, interrupts: Interrupts, sends: Sends, **settings: Any) -> Trainer:
    """Train for six steps of two backward passes each, saving nothing unless asked to."""
    arguments = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    rows: Any = [{"x": torch.ones(1)} for _ in range(100)]
    trainer = Trainer(
        Weight(), arguments, train_dataset=rows, callbacks=[interrupts, sends], **settings
    )
    with interrupts:
        trainer.train()
    return trainer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_stops(number: signal.Signals, tmp_path: Path) -> None:
    said: list[str] = []
    interrupts = Interrupts(resumable=True, tell=said.append)
    trainer = train(tmp_path, interrupts, Sends(2, number))
    assert interrupts.stopped == trainer.state.global_step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert read_json(tmp_path / "checkpoint-2" / "trainer_state.json")["global_step"] == 2
    again = "again " if number == signal.SIGINT else ""
    assert said == [f"finishing step 2, then saving; press Ctrl-C {again}to stop at once"]


def test_what_was_saved_is_gone_on_from(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Interrupts(resumable=True), Sends(0))
    stopped = train(tmp_path / "run", Interrupts(resumable=True), Sends(2, signal.SIGINT))
    stopped.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert stopped.state.global_step == STEPS
    assert torch.equal(stopped.model.weight, whole.model.weight)  # pyright: ignore


def test_it_stops_where_a_batch_of_rollouts_ends(tmp_path: Path) -> None:
    said: list[str] = []
    interrupts = Interrupts(resumable=True, every=4, tell=said.append)
    train(tmp_path, interrupts, Sends(2, signal.SIGINT))
    assert interrupts.stopped == 4
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert said[0].startswith("finishing step 4,")


@pytest.mark.parametrize(("step", "every"), [(6, 1), (5, 4)])
def test_a_run_that_is_about_to_end_ends(step: int, every: int, tmp_path: Path) -> None:
    said: list[str] = []
    interrupts = Interrupts(resumable=True, every=every, tell=said.append)
    trainer = train(tmp_path, interrupts, Sends(step, signal.SIGINT))
    assert interrupts.stopped is None and trainer.state.global_step == STEPS
    assert not tmp_path.exists() or not list(tmp_path.iterdir())
    assert said[0].startswith("finishing step 6,")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_after_a_signal_stops_at_once(first: signal.Signals, tmp_path: Path) -> None:
    interrupts = Interrupts(resumable=True)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, interrupts, Sends(2, first, signal.SIGINT))
    assert interrupts.stopped is None


def test_a_second_sigterm_changes_nothing(tmp_path: Path) -> None:
    interrupts = Interrupts(resumable=True)
    train(tmp_path, interrupts, Sends(2, signal.SIGTERM, signal.SIGTERM))
    assert interrupts.stopped == 2


def test_without_a_state_to_go_on_from_ctrl_c_is_what_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Interrupts(resumable=False), Sends(2, signal.SIGINT))


def test_a_run_that_fails_gives_the_signals_back() -> None:
    with pytest.raises(ZeroDivisionError), Interrupts(resumable=True):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        raise ZeroDivisionError


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts(resumable=True):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)


def test_other_threads_train_without_handlers() -> None:
    found: list[Any] = []

    def run() -> None:
        with Interrupts(resumable=True):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_the_answer_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Interrupts(resumable=True):
        os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr() == (
        "",
        "finishing step 1, then saving; press Ctrl-C again to stop at once\n",
    )


def _take_steps(rank: int, folder: Path) -> None:
    """Be one of two processes that step together; only the second is signalled, in step 3."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    said: list[str] = []
    interrupts = Interrupts(resumable=True, every=2, tell=said.append)
    steps = SimpleNamespace(global_step=0, max_steps=10)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    with interrupts:
        while not control.should_training_stop and steps.global_step < steps.max_steps:
            if (rank, steps.global_step) == (1, 2):
                os.kill(os.getpid(), signal.SIGINT)
            steps.global_step += 1
            interrupts.on_step_end(None, steps, control)
    assert control.should_save and not said  # the first process was not asked, the second is mute
    (folder / f"stopped-{rank}").write_text(str(interrupts.stopped))
    torch.distributed.destroy_process_group()


def test_all_processes_stop_after_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "PartialState", lambda: SimpleNamespace(device="cpu"))
    forked = multiprocessing.get_context("fork")  # starting anew would import everything twice
    processes = [
        forked.Process(target=_take_steps, args=(rank, tmp_path), daemon=True) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [(tmp_path / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["4", "4"]


def run_command(
    monkeypatch: pytest.MonkeyPatch, folder: Path, train: Callable[..., Any]
) -> int | str | None:
    """Run `sparseopd train` with another function in the place of training; return its exit code."""
    monkeypatch.setattr("sparseopd.distill.train", train)
    monkeypatch.setattr(sys, "argv", ["sparseopd", "train", "tiny-arithmetic", "-o", str(folder)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_the_command_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "stopped after step 37 of 120: go on with sparseopd train 'my run' --resume"

    def train(*_: Any, **__: Any) -> None:
        raise Interrupted(sentence)

    assert run_command(monkeypatch, tmp_path, train) == 130
    assert capsys.readouterr() == ("", sentence + "\n")


def test_the_command_says_that_nothing_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    assert run_command(monkeypatch, tmp_path, train) == 130
    assert capsys.readouterr() == ("", "interrupted: nothing more was written\n")
