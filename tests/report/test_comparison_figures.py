"""Figures of a comparison: what they say in words, what they leave out, and that they draw."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from matplotlib.figure import Figure

from sparseopd.report.comparison_arms import CHOSEN_LOOKS, look
from sparseopd.report.comparison_figures import (
    differences,
    draw_study,
    gain,
    learning,
    overlaps,
    panels,
    response,
    seeds,
    settling,
    telemetry,
)
from sparseopd.report.figures import Drawing
from sparseopd.results import Study
from tests.report.comparisons import (
    HOSTILE,
    bare,
    base_arms,
    hostile,
    interval,
    many_arms,
    masked,
    realistic,
    study,
    ungraded,
)


@cache
def rich() -> Study:
    return realistic().studies[1]


@cache
def drawn() -> dict[str, Drawing]:
    return {one.title: one for one in draw_study(rich(), "k")}


def label(drawing: Drawing) -> str:
    found = re.search(r'aria-label="([^"]*)"', drawing.svg)
    assert found is not None
    return found[1]


def titles(figure: Figure | None) -> list[str]:
    assert figure is not None
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_rich_study_has_every_figure_in_order() -> None:
    assert list(drawn()) == [
        gain.DENSITY_TITLE,
        gain.STEPS_TITLE,
        differences.FULL_TITLE,
        seeds.TITLE,
        differences.RANDOM_TITLE,
        settling.TITLE,
        overlaps.TITLE,
        telemetry.TITLE,
        response.TITLE,
        learning.TITLE,
    ]


@pytest.mark.parametrize(
    ("title", "said"),
    [
        (gain.DENSITY_TITLE, "discovered: 91 % [86, 95] at 1 %, 96 % [92, 101] at 3 %"),
        (gain.STEPS_TITLE, "10 % of the weights: 80 % [76, 85] at 5 steps"),
        (differences.FULL_TITLE, "8 equal"),
        (differences.FULL_TITLE, "discovered 3 % −1.1 [−2.3, +0.1] not settled"),
        (seeds.TITLE, "source 67.0 % [65.9, 68.1]"),
        (differences.RANDOM_TITLE, "discovered 1 % +12.5 [+11.3, +13.7] better"),
        (settling.TITLE, "10 %: jaccard 0.51 at step 5 to 1.00 at step 120"),
        (overlaps.TITLE, "chance 17.5 %, |W| null 33.0 %, observed 53.0 %"),
        (telemetry.TITLE, "sgd, momentum 0.9, lr 0.01: cos(m, g) +0.77 at the start"),
        (response.TITLE, "low-magnitude 10 % best at 3e-4, an end of those tried"),
        (learning.TITLE, "full OPD"),
    ],
)
def test_alternative_text_says_the_finding_in_numbers(title: str, said: str) -> None:
    assert said in label(drawn()[title])


def test_every_arm_keeps_a_look_of_its_own() -> None:
    looks = {(one.color, one.marker) for one in CHOSEN_LOOKS.values()}
    assert len(looks) == len(CHOSEN_LOOKS)
    plain, moved = masked("discovered", 0.1, 0.9), masked("discovered", 0.1, 0.9, found_on="x")
    assert look(plain).filled and not look(moved).filled
    assert look(plain).color == look(moved).color


def test_collapsed_arm_becomes_an_arrow_and_the_caption_says_so() -> None:
    assert "An arrow: further than the axis goes." in differences.full_caption(rich())
    assert "An arrow" in seeds.caption(rich())
    calm = study("s", "", base_arms())
    assert "An arrow" not in differences.full_caption(calm) + seeds.caption(calm)
    figure = differences.draw_full(rich())
    assert figure is not None
    low, high = figure.axes[0].get_xlim()
    assert -0.3 < low < -0.05 and 0.02 < high < 0.1


def test_margin_is_drawn_and_told() -> None:
    assert "the margin of ±2 points" in differences.full_caption(rich())
    assert "margin" not in differences.random_caption(rich())


def test_shares_that_run_away_are_cut_and_told() -> None:
    arms = [replace(one, kept=interval(9.0 * (one.density or 0), 3)) for one in many_arms()]
    wild = study("s", "", arms)
    assert "Cut off at −60 and 180 %." in gain.density_caption(wild)
    assert "Cut off" not in gain.density_caption(rich())
    figure = gain.draw_density(wild)
    assert figure is not None and figure.axes[0].get_ylim()[1] < 2.1


def test_gain_figures_need_two_points_of_a_line() -> None:
    small = study("s", "", base_arms())
    assert gain.draw_density(small) is None and gain.draw_steps(small) is None


def test_panels_wrap_long_names_and_mark_what_is_not_bracketed() -> None:
    shown = titles(response.draw_response(rich()))
    assert "low-magnitude 10 % ‡" in shown
    assert "10 % mask of another\nmethod (GRPO)" in shown
    assert all(len(line) <= panels.LETTERS for text in shown for line in text.splitlines())


def test_response_of_ungraded_arms_is_their_kl() -> None:
    own = ungraded().studies[0]
    assert response.caption(own).startswith("KL to the teacher")
    assert "KL to the teacher over the learning rate" in response.describe_response(own)


def test_losses_of_different_objectives_are_told_apart() -> None:
    assert "Objectives differ" in learning.caption(rich())
    assert "Objectives differ" not in learning.caption(study("s", "", base_arms()))


def test_runs_beyond_the_colours_are_left_to_the_csv() -> None:
    row = rich().telemetry[0]
    many = replace(rich(), telemetry=[replace(row, lr=1e-4 * n) for n in range(1, 10)])
    assert "3 more runs are in the CSV." in telemetry.caption(many)
    assert telemetry.describe_telemetry(many).count("adamw") == 6


def test_telemetry_that_saw_nothing_is_not_drawn() -> None:
    rows = [
        replace(row, cosine=[None] * len(row.steps), variation=[float("nan")] * len(row.steps))
        for row in rich().telemetry
    ]
    assert telemetry.draw_telemetry(replace(rich(), telemetry=rows)) is None


def test_settling_without_null_draws_no_dashes() -> None:
    rows = [replace(row, null=None) for row in rich().settling]
    bare_rows = replace(rich(), settling=rows)
    assert "Dashes" in settling.caption(rich()) and "Dashes" not in settling.caption(bare_rows)
    assert "null" not in settling.describe_settling(bare_rows)


@pytest.mark.parametrize(
    "draw",
    [
        gain.draw_density,
        gain.draw_steps,
        differences.draw_full,
        differences.draw_random,
        settling.draw_settling,
        overlaps.draw_overlaps,
        telemetry.draw_telemetry,
        response.draw_response,
        learning.draw_learning,
    ],
)
def test_what_is_missing_is_not_drawn(draw: Callable[[Study], Figure | None]) -> None:
    assert draw(bare().studies[0]) is None


def test_hostile_names_stay_text_in_figures() -> None:
    for one in draw_study(hostile().studies[0], "k"):
        assert "<script" not in one.svg and one.svg.endswith("</svg>")
        assert one.svg.count("</svg>") == 1
    assert "<script" in HOSTILE


def test_figures_are_drawn_in_the_pages_ink() -> None:
    for one in drawn().values():
        assert "currentColor" in one.svg and "#0a0b0c" not in one.svg
