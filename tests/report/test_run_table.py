"""The table of a training run fits 80 columns, and holds what was logged and nothing else."""

from __future__ import annotations

import math

from sparseopd.report import run_table
from sparseopd.report.course import FIGURES
from tests.report.reading import printed


def lines_of(rows: list[dict]) -> dict[str, list[str]]:
    """The table's rows as cells, by their titles."""
    table = run_table(rows)
    assert table is not None
    printed(table)
    columns = [list(column.cells) for column in table.columns]
    return {
        str(title): [str(cell) for cell in cells] for title, *cells in zip(*columns, strict=True)
    }


def test_each_figure_has_its_course() -> None:
    rows = [
        {"step": 1, "loss": 2.0, "truncated": 0.5, "memory_gib": 0.8},
        {"step": 2, "loss": 0.5, "truncated": 0.0, "memory_gib": 0.93},
        {"step": 3, "loss": 1.0, "truncated": 0.031, "memory_gib": 0.93},
    ]
    assert lines_of(rows) == {
        "loss": ["2", "1", "1.17", "0.5", "2"],
        "truncated, %": ["50.0", "3.1", "17.7", "0.0", "50.0"],
        "memory, GiB": ["", "", "", "", "0.93"],
    }


def test_all_that_can_be_logged_fits_whole() -> None:
    wild = [-1.23e-30, 4.56e30, -0.00123]
    own = {
        "truncated": [1.0, 0.0, 0.5],
        "tokens_per_second": [9.9e8, 1e-3, 123_456.7],
        "memory_gib": [2000.0, 1.0, 0.5],
    }
    rows = [{figure.key: own.get(figure.key, wild)[row] for figure in FIGURES} for row in range(3)]
    table = run_table(rows)
    assert table is not None
    text = printed(table)
    assert "…" not in text and "-1.23e-30" in text and "990,000,000" in text
    assert [line.split()[0] for line in text.splitlines()[2:]] == [
        "loss", "KL,", "reward", "entropy,", "truncated,", "gradient", "tokens/s", "memory,",
    ]  # fmt: skip


def test_values_that_are_no_figures_are_left_out() -> None:
    rows = [
        {"loss": None, "kl": math.nan},
        {"loss": 1.0, "kl": None, "entropy": "x"},
        {"loss": 3.0, "kl": math.inf},
    ]
    assert lines_of(rows) == {"loss": ["1", "3", "2", "1", "3"]}


def test_a_figure_logged_now_and_then_begins_where_it_was_first_logged() -> None:
    rows = [{"loss": 1.0}, {"loss": 1.0, "tokens_per_second": 1000.0}, {"loss": 1.0}]
    rows += [{"loss": 1.0, "tokens_per_second": 2345.6}]
    assert lines_of(rows)["tokens/s"] == ["1,000", "2,346", "1,673", "1,000", "2,346"]


def test_nothing_logged_is_no_table() -> None:
    assert run_table([]) is None
