"""What the command line shows while stages run: one line each, whole, within the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from sparseopd import console as module
from sparseopd.artifacts import Progress
from sparseopd.console import live_progress

FIGURES = "loss .123 kl .101 ent .520 cut 3% 1.2k tok/s 0.9G"
Run = Callable[[Progress], None]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run a function that reports; return the lines it leaves, without colours and cursor moves."""

    def show(run: Run, width: int = 80, terminal: bool = True, **more: Any) -> list[str]:
        screen = io.StringIO()
        console = Console(
            width=width, file=screen, force_terminal=terminal, _environ={"TERM": "xterm"}, **more
        )
        monkeypatch.setattr(module, "console", console)
        with live_progress() as progress:
            run(progress)
        return [line for line in left_on_screen(screen.getvalue()) if line.strip()]

    return show


def left_on_screen(output: str) -> list[str]:
    """Do what a terminal does with text, line ends, cursor moves up and erased lines."""
    lines, row, column = [""], 0, 0
    for number, control, character in re.findall(r"\x1b\[([\d;?]*)([A-Za-z])|([^\x1b])", output):
        if control == "A":
            row -= int(number or 1)
        elif control == "K":
            lines[row] = ""
        elif character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif character:
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
    return lines


def test_a_running_stage_is_one_line_that_fits(shown) -> None:
    lines = shown(lambda progress: progress("train", 37, 120, "", FIGURES))
    assert max(map(cell_len, lines)) <= 78
    assert re.fullmatch(rf"train [━╸╺ ]{{6,}} 37/120 {re.escape(FIGURES)} +-:--", lines[-1])


def test_the_bar_takes_what_the_texts_leave(shown) -> None:
    lines = shown(lambda progress: progress("train", 37, 120))
    assert {cell_len(line) for line in lines} == {78}
    assert lines[-1].endswith("━ 37/120 -:--")


def test_a_narrow_terminal_cuts_the_detail_and_keeps_the_rest(shown) -> None:
    stage = "tiny-arithmetic: discovered mask: train"
    lines = shown(lambda progress: progress(stage, 37, 120, "", FIGURES))
    assert max(map(cell_len, lines)) <= 78
    assert lines[-1].startswith(stage) and "37/120 loss .123" in lines[-1]
    assert "…" in lines[-1] and lines[-1].endswith("-:--")
    narrow = shown(lambda progress: progress(stage, 37, 120, "", FIGURES), width=40)
    assert max(map(cell_len, narrow)) <= 38
    assert "37/120" in narrow[-1] and narrow[-1].endswith("-:--")


def test_lines_of_several_stages_stand_below_each_other(shown) -> None:
    def run(progress: Progress) -> None:
        progress("whole demo", 12, 4000)
        progress("train", 37, 120, "", FIGURES)

    whole, train = shown(run)[-2:]
    assert max(cell_len(whole), cell_len(train)) <= 78
    assert whole.index("12/4,000") == train.index("37/120")
    assert cell_len(whole) == cell_len(train)


def test_markup_in_names_and_details_is_text(shown) -> None:
    lines = shown(lambda progress: progress("[red]train[/]", 1, 2, "", "[bold]x"))
    assert lines[-1].startswith("[red]train[/] ") and " 1/2 [bold]x " in lines[-1]


def test_the_time_left_is_told_from_long_steps_too(shown) -> None:
    now = 0

    def run(progress: Progress) -> None:
        nonlocal now
        for step in range(1, 4):
            now += 60
            progress("train", step, 63)

    assert shown(run, get_time=lambda: now)[-1].endswith(" 3/63 1:00:00")


def test_a_stage_that_ends_leaves_one_line(shown) -> None:
    def run(progress: Progress) -> None:
        progress("mask", 512_000, 1_024_000, "bytes")
        progress("mask", 1_024_000, 1_024_000, "bytes")

    (line,) = shown(run)
    assert re.fullmatch(r"mask: 1\.0 MB in \d+\.\d s", line)


def test_without_a_terminal_figures_are_left_every_tenth(shown) -> None:
    now = 0

    def run(progress: Progress) -> None:
        nonlocal now
        for now in range(1, 41):
            progress("train", now, 40, "", f"loss {now}")
            progress("sample", now, 40)

    lines = shown(run, terminal=False, get_time=lambda: now)
    assert lines[:-2] == [
        f"train: {step}/40 loss {step}, 0:{40 - step:02} left" for step in range(4, 40, 4)
    ]
    assert [line.split(":")[0] for line in lines[-2:]] == ["train", "sample"]


def test_without_a_terminal_a_resumed_run_reports_where_it_is(shown) -> None:
    now = 0

    def run(progress: Progress) -> None:
        nonlocal now
        for now in (38, 39, 40):
            progress("train", now, 100, "", "loss 1")

    assert shown(run, terminal=False, get_time=lambda: now) == [
        "train: 38/100 loss 1",
        "train: 40/100 loss 1, 1:00 left",
    ]


def test_nothing_is_drawn_before_a_stage_reports(shown) -> None:
    assert shown(lambda progress: None) == []
