"""The terminal's tables of an analysis: within 80 columns, nothing cut, verdicts in words."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace

import pytest

from sparseopd.analysis import Analysis
from sparseopd.analysis.paper import COLUMNS
from sparseopd.report import analysis_tables
from sparseopd.report.measures import MEASURES, Measure, stored, verdict
from tests.report.analyses import ODD, hostile, odd, structured, with_master, without_nulls
from tests.report.reading import printed


def shown(*analyses: Analysis) -> str:
    text = printed(*analysis_tables(list(analyses)))
    assert "…" not in text, "nothing is cut"
    return text


def row(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"{title} "))
    return line.removeprefix(title).split()


def test_findings_come_first_then_dtypes_then_figures() -> None:
    text = shown(structured())
    places = [
        text.index(part)
        for part in (
            structured().findings[0].split(":")[0],
            "Δ = tuned-structured − base",
            "stored bfloat16 and bfloat16, compared in bfloat16, summed in float64",
            "exactly 0",
            "Block",
            "In the paper's",
        )
    ]
    assert places == sorted(places) and places[0] == 0


def test_a_figure_stands_beside_its_nulls_and_verdict() -> None:
    whole = structured().whole
    cells = row(shown(structured()), "top-1 SVD")
    observed, shuffled, noise, *judged = cells
    assert float(observed) == pytest.approx(100 * whole["observed"]["median_svd_energy_top1"], 1e-2)
    for cell, kind in ((shuffled, "shuffled"), (noise, "gaussian")):
        mean, sd = map(float, cell.split("±"))
        wanted = whole[kind]["median_svd_energy_top1"]
        assert mean == pytest.approx(100 * wanted["mean"], 1e-2)
        assert sd == pytest.approx(100 * wanted["sd"], rel=0.5)
    assert " ".join(judged) == "beyond rounding"


def test_before_rounding_has_a_column_where_it_is_known() -> None:
    text = shown(with_master())
    cells, fewer = (row(one, "exactly 0") for one in (text, shown(structured())))
    assert sum(cell[0].isdigit() for cell in cells) == 1 + sum(cell[0].isdigit() for cell in fewer)
    assert float(row(text, "exactly 0")[1]) < float(row(text, "exactly 0")[0])
    assert "before rounding: tuned-with-master, float32" in " ".join(text.split())
    assert float(row(text, "before rounding")[1]) < float(row(text, "observed")[1])


def test_dense_noise_is_as_its_null() -> None:
    text = shown(odd("dense"))
    assert text.startswith("No evidence of structure beyond rounding")
    assert text.count("as null") > 8 and text.count("beyond rounding") == 1
    assert row(text, "exactly 0")[-2:] == ["as", "null"], "though it is apart from shuffled"


def test_without_nulls_there_is_nothing_to_judge() -> None:
    text = shown(without_nulls())
    assert "no nulls drawn" in text
    assert not any(word in text for word in ("Verdict", "Shuffled", "±", "as null", "noise"))
    assert len(row(text, "exactly 0")) == 1


def test_one_draw_has_neither_spread_nor_verdict() -> None:
    text = shown(odd("one draw"))
    assert "1 draw of each null" in text and "as null" not in text
    assert row(text, "exactly 0")[-1] == "–" and "±" not in "".join(row(text, "exactly 0"))


@pytest.mark.parametrize("name", ODD)
def test_what_is_missing_is_left_out_or_a_dash(name: str) -> None:
    text = shown(odd(name))
    assert not {"nan", "None", "inf"} & set(text.split())
    assert "|Δ| ≤ 1e-5" in text


def test_several_updates_begin_side_by_side() -> None:
    text = shown(structured(), with_master())
    assert text.startswith(" " * 10) and text.index("Update") < text.index("Observed")
    first, second = (row(text, one.name) for one in (structured(), with_master()))
    assert first == second and len(first) == 10, "both are rounded alike"
    assert text.count("exactly 0") == 2


def test_names_do_nothing_to_the_terminal() -> None:
    text = printed(*analysis_tables([hostile(), structured()]))
    assert "\x1b" not in text and "\x00" not in text
    assert "[red]" in text


def in_columns(analysis: Analysis, *values: float) -> Analysis:
    """The analysis with other figures in the paper's columns."""
    whole = deepcopy(analysis.whole)
    for column, value in zip(COLUMNS, values, strict=True):
        whole["observed"][column.figure] = value / column.scale
    return replace(analysis, whole=whole)


@pytest.mark.parametrize(
    "values",
    [
        (19.168, 1.34, 1.34, 1.46, 11.08, 95.62, 3.70, 10.09, 9.91, 10.13),
        (1119.168, 100, 100, 100, 100, 100, 16_384, 100, 100, 100),
    ],
)
def test_no_column_of_the_papers_table_is_cut(values: tuple[float, ...]) -> None:
    wide = in_columns(structured(), *values)
    last = "100.00" if values[-1] == 100 else "10.13"
    for text in (shown(wide), shown(wide, structured())):
        _, start, rest = re.split("(‖Δ‖/ +exact)", text, maxsplit=1)
        head, below = (start + rest).split("──", 1)
        assert [line.split()[-1] for line in head.splitlines()[:2]] == ["low", "%"]
        assert head.splitlines()[1].endswith("10 %")
        line = next(line for line in below.splitlines() if f"{values[0]:.3f}" in line)
        assert line.split()[-1] == last and len(line.split()) >= 10


def test_few_draws_are_not_judged() -> None:
    one = odd("one matrix")
    assert "cannot say how far a null strays" in one.findings[0]
    assert one.verdicts and verdict(one, "median_svd_energy_top1") == "–"
    assert "as null" not in shown(one) and "beyond rounding" not in shown(one)


def extreme(analysis: Analysis) -> Analysis:
    """Figures as wide as they can be."""
    whole = deepcopy(analysis.whole)
    for measures in MEASURES.values():
        for one in measures:
            value, sd = (0.000057, 0.0000023) if one.percent else (16_384.0, 4_321.0)
            whole["observed"][one.figure] = whole["master"][one.figure] = value
            whole["shuffled"][one.figure] = {"mean": value, "sd": sd}
            whole["gaussian"][one.figure] = {"mean": value, "sd": sd}
    name = "a-long-name-of-a-run-" * 9
    return replace(analysis, whole=whole, base=name * 2, tuned=name, master=name, name=name)


def test_the_widest_figures_fit() -> None:
    wide = extreme(with_master())
    text = printed(*analysis_tables([wide]))
    assert "0.0057±0.0002" in text and "16,384±4e3" in text
    assert row(text, "top-1 SVD")[-2:] == ["beyond", "rounding"], "the last column is whole"
    printed(*analysis_tables([wide, structured()]))


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [
        (0.7153, True, "71.5"),
        (0.0011297, True, "0.11"),
        (1.0, True, "100"),
        (7.7291, False, "7.73"),
        (96.0, False, "96"),
        (14.02, False, "14.0"),
        (2048.4, False, "2,048"),
    ],
)
def test_figures_are_written_with_the_digits_they_need(
    value: float, percent: bool, text: str
) -> None:
    assert Measure("", "", percent=percent).form(value) == text


def test_a_verdict_is_of_the_figure_of_the_whole() -> None:
    assert verdict(structured(), "median_svd_energy_top1") == "beyond rounding"
    assert verdict(structured(), "relative_norm") == "–"
    seen = deepcopy(structured().verdicts)
    for one in seen.values():
        one["structure"] = False
    assert verdict(replace(structured(), verdicts=seen), "median_svd_energy_top1") == "differs"


def test_dtypes_of_mixed_checkpoints_are_all_named() -> None:
    dtypes = {
        "stored": {"base": ["bfloat16", "float32"], "tuned": ["float16"], "master": ["float32"]},
        "compared": ["bfloat16", "float16"],
        "summed": "float64",
    }
    assert stored(replace(structured(), dtypes=dtypes, master="wide")) == (
        "stored bfloat16 + float32 and float16, compared in bfloat16 + float16, summed in float64; "
        "before rounding: wide, float32"
    )
