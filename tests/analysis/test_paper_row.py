"""The paper's table row: the authors' figures on the reference pair, and the ten published rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparseopd.analysis import AnalysisSettings, analyze
from sparseopd.analysis.paper import COLUMNS, PAPER, paper_rows
from tests.report.analyses import odd, structured, with_master, without_nulls

REFERENCE = Path(__file__).parent / "reference"


def test_the_reference_pair_has_the_row_of_the_authors_scripts() -> None:
    found = analyze(REFERENCE / "base", REFERENCE / "tuned", settings=AnalysisSettings(draws=0))
    (row,) = paper_rows(found)
    theirs = json.loads((REFERENCE / "figures.json").read_text(encoding="utf-8"))["whole_model"]
    wanted = [column.scale * theirs[column.figure] for column in COLUMNS]
    assert list(row.values) == pytest.approx(wanted, rel=1e-3)
    shares = slice(1, 4)
    assert row.values[shares] == tuple(wanted[shares])


def test_every_side_has_its_row() -> None:
    assert [row.side for row in paper_rows(structured())] == ["observed", "shuffled", "gaussian"]
    assert [row.side for row in paper_rows(without_nulls())] == ["observed"]
    rows = {row.side: row for row in paper_rows(with_master())}
    assert list(rows) == ["observed", "master", "shuffled", "gaussian"]
    whole = with_master().whole
    place = [column.key for column in COLUMNS].index("top_16_svd")
    assert rows["master"].values[place] == 100 * whole["master"]["median_svd_energy_top16"]
    null = whole["shuffled"]["median_svd_energy_top16"]
    assert rows["shuffled"].values[place] == 100 * null["mean"]
    assert rows["shuffled"].spread[place] == 100 * null["sd"]
    assert {row.name for row in rows.values()} == {"with-master"}


def test_the_stable_rank_is_no_percentage() -> None:
    scales = {column.key: column.scale for column in COLUMNS}
    assert scales.pop("stable_rank") == 1 and set(scales.values()) == {100}


def test_what_does_not_exist_is_none() -> None:
    for row in paper_rows(odd("nothing moved")):
        assert row.values[:4] == (0, 100, 100, 100) and set(row.values[4:]) == {None}


def test_the_papers_ten_rows_are_whole_and_possible() -> None:
    assert len(PAPER) == 10 and len({row.name for row in PAPER}) == 10
    for row in PAPER:
        assert row.side == "paper" and len(row.values) == len(COLUMNS)
        known = [value for value in row.values if value is not None]
        assert len(known) == len(COLUMNS) and all(0 < value <= 100 for value in known)
        assert known[1] <= known[2] <= known[3], "shares grow with the threshold"


def test_published_rows_are_those_of_the_paper() -> None:
    rows = {row.name: row.values for row in PAPER}
    assert rows["OPD ← DeepScaleR"] == (
        *(0.047, 82.02, 82.58, 98.35, 19.28),
        *(26.92, 9.97, 0.37, 4.81, 38.04),
    )
    assert rows["RLVR JustRL"][0] == 0.497 and rows["Qwen3-4B OPSD"][-1] == 48.57
