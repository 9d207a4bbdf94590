"""Figures draw the data they are given: values, colours, order, and their alternative text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from sparseopd.artifacts import Interval
from sparseopd.report.arms import LOOKS, look, role
from sparseopd.report.curves import curve as read_curve
from sparseopd.report.curves import learning_curves, running_median
from sparseopd.report.figures import MOST_MASKS, draw_masks, draw_measures
from sparseopd.report.heatmap import draw_layout
from sparseopd.report.intervals import accuracy, kl_to_teacher
from sparseopd.report.layout import describe_layout, distinct_layouts, grids, shared_top
from sparseopd.report.svg import to_svg
from tests.report.builders import arm, curve, layout, pair, scores


def labels(drawings: list) -> list[str]:
    return [ElementTree.fromstring(drawing.svg).attrib["aria-label"] for drawing in drawings]


def test_alternative_text_says_the_figures() -> None:
    shown, kl, loss = labels(draw_measures(pair(), "k"))
    assert shown.startswith("Accuracy: source 61.2 % [59.2, 63.2]; teacher 97.9 %")
    assert "masked 0.0263 [0.0233, 0.0293]" in kl
    assert re.search(r"full 0\.\d+ at step 1 to 0\.\d+ at step 120", loss)


def test_curves_draw_every_trained_arm_in_its_colour() -> None:
    figure = learning_curves(pair())
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if line.get_linewidth() > 1]
    assert [line.get_color() for line in lines] == [
        LOOKS[name].color for name in ("full", "masked", "random")
    ]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "full",
        "masked, 10 %",
        "random, 10 %",
    ]


def test_arms_of_one_kind_have_their_own_dashes() -> None:
    figure = learning_curves(
        scores(*(arm(f"m{index}", "masked", curve=curve(1, 0.1)) for index in range(3)))
    )
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if line.get_linewidth() > 1]
    assert len({line.get_color() for line in lines}) == 1
    assert len({str(line._dash_pattern) for line in lines}) == 3  # type: ignore[attr-defined]


def test_losses_that_span_decades_go_on_a_logarithmic_axis() -> None:
    def scale(last: float) -> str:
        figure = learning_curves(scores(arm("m", "full", curve=curve(1, last))))
        assert figure is not None
        return figure.axes[0].get_yscale()

    assert (scale(0.2), scale(0.001)) == ("linear", "log")


def test_running_median_ignores_a_spike_and_keeps_short_curves() -> None:
    values = np.ones(60)
    values[30] = 100
    assert np.array_equal(running_median(values), np.ones(60))
    assert np.array_equal(running_median(np.array([3.0, 1.0, 2.0])), [3, 1, 2])


def test_rows_without_a_finite_loss_are_left_out() -> None:
    rows = [
        {"step": 1, "loss": 1.0},
        {"step": 2},
        {"step": 3, "loss": None},
        {"step": 4, "loss": float("nan")},
    ]
    steps, losses = read_curve(arm("m", "full", curve=rows))
    assert (steps.tolist(), losses.tolist()) == ([1], [1])


def test_whiskers_span_the_intervals_and_references_run_through() -> None:
    figure = accuracy(pair())
    assert figure is not None
    axes = figure.axes[0]
    whiskers = [line for line in axes.lines if np.size(line.get_xdata()) == 2]
    assert whiskers[3].get_xdata() == pytest.approx([0.931, 0.971])
    assert whiskers[3].get_color() == LOOKS["masked"].color
    references = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    assert [len(lines.get_segments()) for lines in references] == [5, 5]


def test_dollar_signs_in_names_are_no_formula() -> None:
    for drawing in draw_measures(scores(arm("$x_1$", "full", 0.5, curve=curve(1, 0.1))), "k"):
        drawn = [element.text for element in ElementTree.fromstring(drawing.svg).iter("text")]
        assert "$x_1$" in drawn


def test_nothing_measured_draws_nothing() -> None:
    bare = scores(arm("m", "masked"))
    assert accuracy(bare) is kl_to_teacher(bare) is learning_curves(bare) is None
    assert draw_measures(bare, "k") == draw_masks(bare, "k") == []


def test_kinds_and_controls() -> None:
    assert [role(arm("a", kind)) for kind in ("source", "full", "masked", "odd")] == [
        "source",
        "full",
        "masked",
        "model",
    ]
    assert (
        role(arm("Random mask 10 %", "masked")) == "random"
        and role(arm("random", "model")) == "model"
    )
    assert len({look(one).color for one in pair().arms}) == 5


def test_layout_grids_hold_densities_and_gaps() -> None:
    layers, other = grids(layout(0.1, 0.0, layers=3, vision=2))
    assert layers.layers == [0, 1, 2] and len(layers.modules) == 14
    column = layers.density[:, layers.modules.index("vision.fc1")]
    assert column[:2] == pytest.approx(0.1, abs=1e-3) and np.isnan(column[2])
    assert other.modules == ["embed_tokens", "norm", "lm_head", "projector"]


def test_heat_map_has_a_cell_for_every_row_of_the_layout() -> None:
    rows = layout(0.1, 1.0, layers=3, vision=2)
    figure = draw_layout(rows, 0.2)
    cells = [len(axes.patches) for axes in figure.axes]
    assert sum(cells[:2]) == len(rows) and cells[1] == 4


def test_same_masks_are_drawn_once_and_share_a_scale() -> None:
    one = scores(
        arm("a", "masked", layout=layout(0.1, 0.0)),
        arm("b", "masked", layout=layout(0.1, 0.0)),
        arm("c", "masked", layout=layout(0.3, 0.0)),
    )
    assert [[item.name for item in group] for group in distinct_layouts(one)] == [["a", "b"], ["c"]]
    assert shared_top(one) == pytest.approx(0.3, abs=1e-3)
    assert draw_masks(one, "k")[0].title == "Where the mask lies: a, b"


def test_many_masks_are_cut_and_say_so() -> None:
    many = scores(
        *(arm(f"m{index}", "masked", layout=layout(0.01 * (index + 1), 0.0)) for index in range(9))
    )
    drawings = draw_masks(many, "k")
    assert len(drawings) == MOST_MASKS and drawings[-1].caption.endswith(
        "3 more masks are not drawn."
    )


def test_layout_in_words() -> None:
    rows = [
        {"layer": 0, "module": "q_proj", "count": 1, "numel": 100},
        {"layer": 7, "module": "v_proj", "count": 30, "numel": 100},
    ]
    assert describe_layout([arm("m", "masked", layout=rows)]) == (
        "Where the mask of m lies: 15.5 % of 200 coordinates; "
        "densest in v_proj of layer 7 (30 %), thinnest in q_proj of layer 0 (1 %)."
    )


def test_svg_is_the_pages_own() -> None:
    figure = Figure()
    figure.add_subplot().plot([0, 1], marker="o")
    svg = to_svg(figure, "key", 'says "this" & <that>')
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'says "this" & <that>' and "width" not in root.attrib
    identities = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert identities and all(identity.startswith("key-") for identity in identities)
    assert not {"metadata", "style", "script"} & {element.tag for element in root.iter()}
    assert "xmlns" not in svg and "font-family" not in svg
    assert svg == to_svg(figure, "key", 'says "this" & <that>')


def test_ink_follows_the_page() -> None:
    drawing = draw_measures(scores(arm("m", "full", 0.5, kl=Interval(0.1, 0.1, 0.1))), "k")[0]
    fills = re.findall(r"<text[^>]*style=\"([^\"]*)\"", drawing.svg)
    assert fills and all("currentColor" in style for style in fills)
