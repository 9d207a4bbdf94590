"""The terminal tables fit 80 columns and show names and figures whole."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from sparseopd.artifacts import Interval, Scores
from sparseopd.report import mask_table, scores_table
from tests.report.builders import arm, interval, layout, pair, scores


def printed(table: Table, width: int = 80) -> str:
    """The table as plain text in a terminal of this width."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(map(cell_len, text.splitlines())) <= width
    return text


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


def test_mask_table_sums_layers_of_a_module() -> None:
    text = printed(mask_table(layout(0.1, 0.0, layers=36, vision=2)))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["q_proj"] == ["36", "589,824", "58,968", "10", "10", "10"]
    assert rows["lm_head"] == ["–", "16,384", "1,638", "10", "–", "–"]
    assert rows["all"][0] == "36"


def test_mask_table_of_nothing() -> None:
    assert "all" in printed(mask_table([]))
