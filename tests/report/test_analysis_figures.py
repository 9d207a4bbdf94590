"""Figures of an analysis: they draw its figures, and leave out what is missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sparseopd.analysis import Analysis
from sparseopd.analysis.measure import CURVE
from sparseopd.report.analysis_figures import (
    bins,
    coverage,
    density,
    draw_analysis,
    layers,
    shares,
    spectra,
)
from sparseopd.report.analysis_figures.spectra import draw_spectra, median_curve
from sparseopd.report.cells import Scale
from tests.report.analyses import hostile, odd, structured, with_master, without_nulls

EVERY = {
    layers.TITLE,
    layers.MARGIN_TITLE,
    "Singular spectra of the update",
    coverage.TITLE,
    density.TITLE,
    shares.TITLE,
}
FILES = ("whole.csv", "groups.csv", "tensors.csv", "spectra.csv", "joint.csv")


def titles(analysis: Analysis) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {drawing.title for drawing in draw_analysis(analysis, "a1")}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_whole_analysis_has_every_figure() -> None:
    assert titles(structured()) == titles(with_master()) == EVERY


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("no nulls", {layers.MARGIN_TITLE}),
        ("one draw", set()),
        ("dense", set()),
        ("wide", set()),
        ("nothing moved", EVERY),
        ("vectors alone", EVERY - {density.TITLE}),
        ("one matrix", {layers.TITLE, layers.MARGIN_TITLE, shares.TITLE}),
        ("one coordinate", set()),
    ],
)
def test_what_is_missing_leaves_its_figure_out(name: str, missing: set[str]) -> None:
    assert titles(odd(name)) == EVERY - missing


def test_every_figure_has_words_for_it_and_names_its_csv() -> None:
    for drawing in draw_analysis(structured(), "a1", "runs/"):
        root = ElementTree.fromstring(drawing.svg)
        assert len(root.attrib["aria-label"]) > 60 and root.attrib["role"] == "img"
        assert any(drawing.caption.endswith(f" CSV: runs/{name}.") for name in FILES)


def test_names_are_drawn_as_text() -> None:
    drawings = draw_analysis(hostile(), "a1")
    for drawing in drawings:
        tags = {element.tag for element in ElementTree.fromstring(drawing.svg).iter()}
        assert "script" not in tags and "text" in tags
    assert any("&lt;script&gt;" in drawing.svg for drawing in drawings)


def test_a_cell_shows_the_share_of_its_tensor() -> None:
    figure = layers.draw_sparsity(structured())
    assert figure is not None
    tensors = structured().tensors
    drawn = [one for axes in figure.axes[:2] for one in axes.patches if isinstance(one, Rectangle)]
    assert len(drawn) == len(tensors) and len(texts(figure)) == len(tensors)
    found = next(one for one in tensors if one["layer"] == 1 and one["module"] == "q_proj")
    assert layers.two_digits(found["observed"]["share_le_1e-5"]) in texts(figure)
    assert "most in input_layernorm of layer " in layers.describe_sparsity(structured())


def test_margins_are_observed_minus_noise() -> None:
    figure = layers.draw_margin(structured())
    assert figure is not None
    drawn = [text.replace("−", "-") for text in texts(figure)]
    wanted = [
        100 * (one["observed"][layers.SHARE] - float(np.mean(one["gaussian"][layers.SHARE])))
        for one in structured().tensors
    ]
    assert sorted(map(float, drawn)) == pytest.approx(sorted(wanted), abs=0.5)
    assert max(wanted) > 5, "a sparse update leaves more unchanged than noise"


def test_colours_run_from_end_to_end_of_a_scale() -> None:
    scale = Scale(low=0.5, high=0.9, ends=("", ""), legend="", form=str)
    assert [scale.place(value) for value in (0.1, 0.5, 0.7, 0.9, 1)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )
    assert scale.color(0.5) != scale.color(0.9)
    assert (scale.ink(0.5), scale.ink(0.9)) == ("white", "black")
    flat = Scale(low=1, high=1, ends=("", ""), legend="", form=str)
    assert flat.place(1) == 0


def test_less_and_more_than_nothing_have_colours_apart() -> None:
    scale = Scale(low=-0.2, high=0.2, ends=("", ""), legend="", form=str, around_zero=True)
    less, none, more = (np.array(scale.color(value)) for value in (-0.2, 0, 0.2))
    assert less[2] > less[0] and more[0] > more[2] and np.ptp(none[:3]) < 0.05
    assert [scale.ink(value) for value in (-0.2, 0, 0.2)] == ["white", "black", "white"]


def test_a_curve_is_the_median_over_matrices_that_have_it() -> None:
    size = len(CURVE)
    members = [
        {"curve": {"observed": [1.0] * size}},
        {"curve": {"observed": [0.5] * size}},
        {"curve": {"observed": [*[0.0] * (size - 1), None]}},
        {"curve": {"observed": []}},
        {"curve": {}},
    ]
    curve = median_curve(members, "observed")
    assert curve.tolist() == [0.5] * (size - 1) + [0.75]
    assert np.isnan(median_curve(members, "gaussian")).all()


def test_every_module_has_a_panel_with_a_line_a_side() -> None:
    figure = draw_spectra(with_master())
    assert figure is not None
    named = [axes.get_title(loc="left") for axes in figure.axes]
    assert named == ["embed_tokens", "q_proj", "k_proj", "up_proj", "down_proj"]
    assert all(len(axes.lines) == 4 for axes in figure.axes)


def test_a_spectrum_that_ends_early_is_drawn_as_far_as_it_goes() -> None:
    tensors = deepcopy(structured().tensors)
    for tensor in tensors:
        for side, curve in tensor["curve"].items():
            tensor["curve"][side] = [*curve[:20], *[None] * len(curve[20:])]
    figure = draw_spectra(replace(structured(), tensors=tensors))
    assert figure is not None
    heights = np.array(figure.axes[0].lines[0].get_ydata(), dtype=float)
    assert np.isfinite(heights[:20]).all() and np.isnan(heights[20:]).all()


def test_coverage_is_drawn_as_measured() -> None:
    figure = coverage.draw_coverage(structured())
    assert figure is not None
    principal, small = figure.axes
    assert len(principal.lines) == len(small.lines) == 4, "chance and three sides"
    observed = structured().whole["observed"]
    wanted = [observed[f"median_coverage_low_magnitude_{p}pct_alpha_0"] for p in (1, 5, 10, 20)]
    assert small.lines[1].get_ydata() == pytest.approx(wanted)
    assert principal.lines[0].get_ydata() == pytest.approx([0.01, 0.05, 0.1, 0.2])


def joint(weight: int, change: int) -> Analysis:
    """Counts of half octaves from 2⁻²⁰ on, one in each."""

    def edges(count: int) -> list[float]:
        return [0.0, *(2.0 ** (half // 2 - 20) * (1.5 if half % 2 else 1) for half in range(count))]

    counts = [[3] * (change + 1)] + [[1] * (change + 1) for _ in range(weight)]
    made = {"weight": edges(weight), "change": edges(change), "observed": counts}
    return replace(structured(), joint=made)


def test_joint_shares_are_those_of_all_coordinates() -> None:
    found = bins.joint_of(structured())
    assert found is not None and list(found.shares) == ["observed", "gaussian"]
    for side in found.shares:
        drawn = found.shares[side].sum() + found.unmoved[side]
        assert 0.99 < drawn <= 1 + 1e-9
        assert found.still[side].sum() == pytest.approx(found.unmoved[side], abs=0.01)
    assert found.unmoved["observed"] == pytest.approx(structured().whole["observed"]["share_zero"])


def test_many_bins_are_drawn_two_as_one() -> None:
    analysis = joint(30, 100)
    found = bins.joint_of(analysis)
    assert found is not None
    assert found.shares["observed"].shape == (30, 50)
    total = 31 * 101 + 2 * 101
    assert found.shares["observed"] == pytest.approx(np.full((30, 50), 2 / total))
    assert np.diff(found.change) == pytest.approx(np.ones(50))
    assert found.empty == pytest.approx(3 * 101 / total)
    assert "Weights of 0, " in density.caption(analysis)


def test_what_lies_beyond_the_last_bin_is_not_drawn() -> None:
    analysis = joint(4, 4)
    analysis.joint["observed"] = [[0] * 5, *([[0, 10_000, 10_000, 10_000, 1]] * 4)]
    found = bins.joint_of(analysis)
    assert found is not None and found.shares["observed"].shape == (4, 3)
    assert np.ptp(found.shares["observed"]) == 0


def test_the_line_of_lost_changes_is_that_of_the_compared_dtype() -> None:
    assert "|W|/256, bfloat16 cannot" in density.caption(structured())
    assert "dashed" not in density.caption(odd("wide"))


def test_shares_are_those_of_blocks_then_modules() -> None:
    blocks, modules = shares.rows(structured())
    assert next(iter(blocks)) == max(blocks, key=lambda name: blocks[name][1])
    assert list(modules)[:3] == ["embed_tokens", "q_proj", "k_proj"]
    for group in (blocks, modules):
        assert np.sum(list(group.values()), axis=0) == pytest.approx([1, 1])


def test_modules_with_little_of_the_update_are_not_drawn() -> None:
    sides = structured().groups["module"]["q_proj"]
    many = {f"m{number}": deepcopy(sides) for number in range(20)}
    for number, one in enumerate(many.values()):
        one["observed"]["share_of_energy"] = number / 190
    groups = {**structured().groups, "module": many}
    analysis = replace(structured(), groups=groups)
    _, modules = shares.rows(analysis)
    assert set(modules) == {f"m{number}" for number in range(4, 20)}
    assert "not drawn, for their small part of it: 4." in shares.caption(analysis)


@pytest.mark.parametrize("tell", [layers.caption, coverage.caption, spectra.caption])
def test_captions_speak_of_nulls_only_where_there_are_some(tell: Callable[[Analysis], str]) -> None:
    for word in ("null", "next figure"):
        assert word not in tell(without_nulls())
    assert "null" in tell(structured()) or "next figure" in tell(structured())
