"""The curve of a mask that settles: a line a density, of one arm, and words for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparseopd.artifacts import Scores
from sparseopd.report.arms import LOOKS
from sparseopd.report.page import render
from sparseopd.report.settling import caption_settling, describe_settling, settling
from tests.report.builders import arm, pair, scores
from tests.report.reading import Page

DENSITIES = (0.01, 0.05, 0.1)


def followed(steps: int = 50, every: int = 10) -> list[dict[str, float]]:
    """Checks every few steps, at each density."""
    return [
        {"step": step, "since": step - every, "density": density, "jaccard": step / steps - density}
        for step in range(2 * every, steps + 1, every)
        for density in DENSITIES
    ]


def masks(*names: str, density: float = 0.0999) -> Scores:
    """Arms with the same mask."""
    arms = [arm(name, "masked", 0.5, density=density, stability=followed()) for name in names]
    return scores(arm("full", "full", 0.9), *arms)


def test_each_density_is_a_line_from_nought_to_one() -> None:
    figure = settling(masks("m"))
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_ylim() == (0, 1) and len(axes.lines) == 3
    assert np.asarray(axes.lines[0].get_xydata())[:, 0].tolist() == [20, 30, 40, 50]
    assert axes.lines[0].get_ydata() == pytest.approx([0.39, 0.59, 0.79, 0.99])
    assert [text.get_text() for text in figure.legends[0].texts] == ["1 %", "5 %", "10 %"]
    assert len({str(line.get_marker()) for line in axes.lines}) == 3


def test_the_masks_own_density_has_its_arms_colour() -> None:
    figure = settling(masks("m"))
    assert figure is not None
    colors = [line.get_color() == LOOKS["masked"].color for line in figure.axes[0].lines]
    assert colors == [False, False, True]
    assert "In colour" in caption_settling(masks("m"))
    assert "In colour" not in caption_settling(masks("m", density=0.3))


def test_no_arm_that_was_followed_draws_nothing() -> None:
    broken = [{"step": 10, "since": 5, "density": 0.1, "jaccard": float("nan")}, {"step": 1}]
    for one in (pair(), scores(), scores(arm("m", "masked", stability=broken))):
        assert settling(one) is None


def test_words_say_whose_how_far_apart_and_what_one_means() -> None:
    caption = caption_settling(masks("a", "b"))
    assert "While the mask of a, b was discovered" in caption
    assert "the one 10 steps before" in caption and "1 means that not one has changed" in caption
    assert "not drawn" not in caption
    text = describe_settling(masks("a"))
    assert "1 % 0.39 at step 20 to 0.99 at step 50; 5 % 0.35" in text


def test_one_check_and_uneven_gaps() -> None:
    one = scores(arm("m", "masked", stability=followed()[:1]))
    assert settling(one) is not None and "1 % 0.39 at step 20." in describe_settling(one)
    rows = [
        {**row, "since": row["step"] - gap} for row, gap in zip(followed(), (1, 5) * 6, strict=True)
    ]
    assert "1 to 5 steps before" in caption_settling(scores(arm("m", "masked", stability=rows)))
    steps = [{**row, "since": row["step"] - 1} for row in followed()]
    assert "1 step before" in caption_settling(scores(arm("m", "masked", stability=steps)))


def test_other_masks_are_named_as_left_out() -> None:
    two = scores(
        arm("a", "masked", stability=followed()), arm("b", "masked", stability=followed(40))
    )
    caption = caption_settling(two)
    assert "of a was" in caption and "not drawn" in caption


def test_the_page_shows_it_and_repeats_to_the_byte(tmp_path: Path) -> None:
    one = pair()
    arms = [replace(a, stability=followed()) if a.name == "masked" else a for a in one.arms]
    one = replace(one, arms=arms)
    html = render([one], title="t", command="c")
    page = Page(html)
    assert page.tags["figure"] == 6 and "How the mask settled" in page.text["h3"]
    assert any("settled, Jaccard index" in label for label in page.values("aria-label"))
    assert render([one], title="t", command="c") == html
    one.save(tmp_path / "scores.json")
    assert render([Scores.load(tmp_path / "scores.json")], title="t", command="c") == html
