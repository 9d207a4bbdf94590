"""A run over time: panels hold the rows they are given, and gaps where a figure does not exist."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes

from sparseopd.report.course_figure import APART, _spread, course_figures, draw_course

SPECTRA = (
    "median_svd_energy_top16",
    "median_stable_rank",
    "median_entropy_effective_rank",
    "median_projection_energy_10pct",
)


def row(step: int, unchanged: float = 0.8, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "compared": "bfloat16",
        "share_zero": unchanged,
        "share_le_1e-5": min(1.0, unchanged + 0.01),
        "share_le_1e-4": 0.99,
        "relative_norm": 0.0005,
        "coordinate_energy_top_1pct_pooled": 0.3,
        **dict.fromkeys(SPECTRA, 0.25),
        "median_stable_rank": 12.5,
        "median_coverage_principal_10pct_alpha_0": 0.05,
        "median_coverage_low_magnitude_10pct_alpha_0": 0.4,
        "support_density": 1 - unchanged,
        "support_jaccard_before": 0.5,
        "support_jaccard_last": 0.75,
        "support_jaccard_before_null": 0.3,
        "support_jaccard_last_null": 0.4,
        **more,
    }


def still(step: int) -> dict[str, Any]:
    """A step after which nothing had moved."""
    nothing = dict.fromkeys(key for key in row(0) if key.startswith(("median", "coordinate")))
    return row(step, 1.0, **nothing, support_jaccard_before=None)


ROWS = [still(2), row(5, 0.9), row(10)]


def panels(name: str, rows: list[dict[str, Any]] = ROWS) -> dict[str, Axes]:
    figure, _ = course_figures(rows)[name]
    return {axes.get_title("left"): axes for axes in figure.axes if axes.axison}


def drawn(axes: Axes, line: int = 0) -> np.ndarray:
    return np.asarray(axes.lines[line].get_xydata())


def test_every_figure_has_its_panels() -> None:
    found = [drawing.title for drawing in draw_course(ROWS, "k")]
    assert found == [
        "What the update left unchanged, over time",
        "The update's spectrum over time",
        "The update's support over time",
    ]
    assert [len(panels(name)) for name in ("sparsity", "spectra", "support")] == [2, 4, 4]


def test_shares_are_drawn_in_percent_against_the_step() -> None:
    axes = panels("sparsity")["unchanged coordinates"]
    assert drawn(axes).tolist() == [[2, 100], [5, 90], [10, 80]]
    assert axes.get_ylim() == (75, 100) and axes.get_xlim()[0] == 0
    assert [text.get_text() for text in axes.texts] == ["Δ = 0", "≤ 1e-5", "≤ 1e-4"]
    colors = [line.get_color() for line in axes.lines]
    assert [text.get_color() for text in axes.texts] == colors and len(set(colors)) == 3
    assert drawn(panels("sparsity")["‖Δ‖ / ‖W‖"])[2] == pytest.approx([10, 0.05])


def test_what_does_not_exist_leaves_a_gap() -> None:
    axes = panels("spectra")["stable rank"]
    assert np.isnan(drawn(axes)[0, 1]) and drawn(axes)[1:].tolist() == [[5, 12.5], [10, 12.5]]
    jaccard = panels("support")["Jaccard index"]
    assert np.isnan(drawn(jaccard)[0, 1]) and jaccard.get_ylim() == (0.25, 0.75)


def test_a_null_is_dashed_in_the_colour_of_its_line() -> None:
    lines = panels("support")["Jaccard index"].lines
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    assert [line.get_color() for line in lines[:2]] == [line.get_color() for line in lines[2:]]
    assert drawn(panels("support")["Jaccard index"], 3)[2].tolist() == [10, 0.4]
    assert len(panels("support")["Jaccard index"].texts) == 2


def test_axes_hold_all_values_and_no_share_above_all() -> None:
    high = {**row(1, 0.1), "share_le_1e-4": 0.2, "median_svd_energy_top16": 0.99}
    assert panels("sparsity", [high])["unchanged coordinates"].get_ylim() == (0, 25)
    assert panels("spectra", [high])["energy in the top 16 σ"].get_ylim() == (0, 100)
    large = {**row(1), "relative_norm": 3.0}
    assert panels("sparsity", [large])["‖Δ‖ / ‖W‖"].get_ylim()[1] > 300


def test_chance_is_a_line_within_the_panel() -> None:
    axes = panels("support")["coverage of a tenth of W"]
    assert set(np.asarray(axes.lines[2].get_ydata())) == {10} and axes.get_ylim()[1] > 40
    low = [row(1, median_coverage_low_magnitude_10pct_alpha_0=0.02)]
    assert panels("support", low)["coverage of a tenth of W"].get_ylim()[1] > 10


def test_panels_and_figures_without_anything_are_left_out() -> None:
    bare = [{**row(1), **dict.fromkeys(SPECTRA)}, {**row(2), **dict.fromkeys(SPECTRA)}]
    assert set(course_figures(bare)) == {"sparsity", "support"}
    one = [{**still(1), "median_stable_rank": 3.0}]
    assert list(panels("spectra", one)) == ["stable rank"]
    assert draw_course([still(1)], "k")[1].title == "The update's support over time"


def test_words_say_where_lines_begin_and_end() -> None:
    drawings = draw_course(ROWS, "k")
    labels = [ElementTree.fromstring(one.svg).attrib["aria-label"] for one in drawings]
    assert "Δ = 0 100 % at step 2 to 80 % at step 10, ≤ 1e-5 " in labels[0]
    assert "stable rank: 12.5 at step 5 to 12.5 at step 10;" in labels[1]
    assert "with before 0.5 at step 5 to 0.5 at step 10, with last 0.75 at step 2" in labels[2]
    assert all("Compared in bfloat16." in one.caption for one in drawings)
    (alone, *_) = draw_course([row(3)], "k")
    assert "‖Δ‖ / ‖W‖: 0.05 % at step 3." in alone.svg


def test_the_same_rows_give_the_same_bytes() -> None:
    one, other = draw_course(ROWS, "k"), draw_course(ROWS, "k")
    assert [drawing.svg for drawing in one] == [drawing.svg for drawing in other]
    identities = [
        element.attrib["id"]
        for drawing in one
        for element in ElementTree.fromstring(drawing.svg).iter()
        if "id" in element.attrib
    ]
    assert len(set(identities)) == len(identities) and all(one[:2] == "k-" for one in identities)


@pytest.mark.parametrize("heights", [[0.5, 0.5, 0.5], [0.9, 0.98, 1.0], [0.0, 0.01], [0.1, 0.9]])
def test_names_of_lines_stand_apart_inside_the_panel(heights: list[float]) -> None:
    places = _spread(heights)
    assert all(b - a >= APART - 1e-9 for a, b in pairwise(places))
    assert max(places) <= 1 and places == sorted(places)
    if heights == [0.1, 0.9]:
        assert places == heights
