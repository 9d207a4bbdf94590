"""The table of scores fits 80 columns and shows names and figures whole."""

from __future__ import annotations

import re

from sparseopd.artifacts import Interval, Scores
from sparseopd.report import scores_table
from tests.report.builders import arm, interval, pair, scores
from tests.report.reading import printed


def widest() -> Scores:
    """Every figure as wide as it gets."""
    wild = Interval(-57.0, -58.0, 58.0)
    return scores(
        arm(
            "an-arm-whose-name-is-longer-than-its-column-seed-12",
            "masked",
            1.0,
            gain=interval(1.0),
            gain_kept=wild,
            kl=interval(1.23e-5),
            density=0.000123,
            lr=1.25e-5,
        ),
        arm(
            "full OPD with words to wrap",
            "full",
            1.0,
            gain_kept=Interval(-1.2, -3.0, -0.8),
            lr=1e-6,
        ),
    )


def test_figures_are_shown() -> None:
    text = printed(scores_table(pair()))
    row = next(line for line in text.splitlines() if line.startswith("masked"))
    assert row.split() == [
        "masked",
        "10",
        "1e-3",
        "95.1",
        "[93.1,",
        "97.1]",
        "97",
        "[91,",
        "103]",
        "0.0263",
    ]


def test_widest_figures_fit_and_nothing_is_cut() -> None:
    text = printed(scores_table(widest()))
    assert "…" not in text
    for figure in (
        "0.0123",
        "1.25e-5",
        "[98.0, 102.0]",
        "<−999 [<−999, >999]",
        "1.23e-5",
        "−120 [−300, −80]",
    ):
        assert figure in text
    names = "".join(re.split(r"\s{2,}", line)[0] for line in text.splitlines()[3:])
    assert "an-arm-whose-name-is-longer-than-its-column-seed-12" in names


def test_markup_and_control_codes_do_nothing() -> None:
    text = printed(scores_table(scores(arm("[red]x[/] \x1b[31m", "model", 0.5))))
    assert "[red]x[/]" in text and "\x1b" not in text


def test_empty_columns_are_left_out() -> None:
    text = printed(scores_table(scores(arm("a", "model", 0.5))))
    assert "Accuracy" in text and "KL" not in text and "Gain" not in text and "lr" not in text


def test_no_arms_and_no_figures() -> None:
    assert "Arm" in printed(scores_table(scores()))
    assert "nothing" in printed(scores_table(scores(arm("nothing", "source"))))
