"""The sentences say what constructed scores show, and no more."""

from __future__ import annotations

import pytest

from sparseopd.artifacts import ArmScores, Interval, Scores
from sparseopd.report import answer
from sparseopd.report.words import MISSING, density, kept, points, rate, scientific, shorten, show
from tests.report.builders import arm, interval, pair, scores


def against_full(
    chosen: Interval, *random: Interval, gain: float = 0.348, density: float = 0.1
) -> str:
    """The answer on a full run, one chosen mask of 10 % and random masks."""
    arms = [
        arm("source", "source", 0.612),
        arm("full", "full", 0.612 + gain, gain=interval(gain), gain_kept=Interval(1, 1, 1)),
        masked("masked", chosen, 0.1),
        *(masked(f"random-{index}", value, density) for index, value in enumerate(random)),
    ]
    return " ".join(answer(scores(*arms)))


def masked(name: str, value: Interval, density: float) -> ArmScores:
    return arm(name, "masked", 0.9, gain_kept=value, density=density)


def test_lead_is_the_sentence_people_want() -> None:
    assert answer(pair())[0] == (
        "Training 10 % of the coordinates kept 97 % [91, 103] of full OPD's gain; "
        "a random mask of the same density kept 71 % [64, 78]."
    )
    assert (
        "Full OPD raised accuracy from 61.2 % to 96.0 % (+34.8 points [+32.8, +36.8])."
        in answer(pair())
    )


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [
        (Interval(0.97, 0.91, 1.03), "show no loss against full OPD"),
        (Interval(0.80, 0.75, 0.85), "falls short of full OPD"),
        (Interval(1.20, 1.10, 1.30), "more than full OPD gained"),
        (Interval(0.70, 0.30, 1.10), "too wide to tell"),
        (Interval(-0.20, -0.30, -0.10), "gained nothing"),
    ],
)
def test_verdict_on_full(chosen: Interval, verdict: str) -> None:
    phrases = ("show no loss", "falls short", "more than full OPD", "too wide", "gained nothing")
    text = against_full(chosen)
    assert verdict in text and sum(phrase in text for phrase in phrases) == 1


@pytest.mark.parametrize(
    ("random", "verdict"),
    [
        ([Interval(0.71, 0.64, 0.78)], "chosen coordinates beat random ones: their"),
        ([Interval(0.94, 0.88, 1.00)], "two intervals overlap"),
        ([Interval(1.20, 1.10, 1.30)], "Random coordinates beat"),
        ([Interval(0.71, 0.64, 0.78), Interval(0.9, 0.8, 1.0)], "Some intervals"),
        ([], "No random mask of the same density"),
    ],
)
def test_verdict_on_the_choice(random: list[Interval], verdict: str) -> None:
    phrases = (
        "beat random ones:",
        "two intervals overlap",
        "Random coordinates beat",
        "Some intervals",
        "No random",
    )
    text = against_full(Interval(0.97, 0.91, 1.03), *random)
    assert verdict in text and sum(phrase in text for phrase in phrases) == 1


def test_a_random_mask_of_another_density_is_no_control() -> None:
    text = against_full(Interval(0.97, 0.91, 1.03), Interval(0.5, 0.4, 0.6), density=0.5)
    assert "a random mask of 50 %" in text and "No random mask of the same density" in text


def test_a_gain_that_may_be_nothing_has_no_shares() -> None:
    text = against_full(Interval(0.97, 0.91, 1.03), Interval(0.7, 0.6, 0.8), gain=0.01)
    assert "not clearly above zero" in text and "beat" not in text and "no loss" not in text


def test_full_without_a_clear_gain_and_no_share_computed() -> None:
    arms = [
        arm("source", "source", 0.6),
        arm("full", "full", 0.61, gain=interval(0.01)),
        arm("masked", "masked", 0.7, gain=interval(0.1), density=0.1),
    ]
    text = " ".join(answer(scores(*arms)))
    assert "raised accuracy from 60.0 % to 70.0 % (+10.0 points [+8.0, +12.0])" in text
    assert (
        "Full OPD changed accuracy by no clear amount" in text and "not clearly above zero" in text
    )


def test_without_a_full_run() -> None:
    arms = [
        arm("source", "source", 0.6),
        arm("masked", "masked", 0.9, gain=interval(0.3), density=0.1),
        arm("random", "masked", 0.5, gain=interval(-0.1), density=0.1),
    ]
    text = " ".join(answer(scores(*arms)))
    assert text.startswith(
        "Training 10 % of the coordinates raised accuracy from 60.0 % to 90.0 % (+30.0"
    )
    assert "A random mask of the same density lowered accuracy" in text
    assert "no full run to compare with" in text and "chosen coordinates beat random" in text


def test_without_a_grader_says_so_and_gives_kl() -> None:
    arms = [
        arm("source", "source", kl=interval(0.5)),
        arm("m", "masked", kl=interval(0.1), density=0.1),
    ]
    text = " ".join(answer(scores(*arms)))
    assert "source 0.5 [0.48, 0.52]; m 0.1 [0.08, 0.12]" in text and "No grader applies" in text
    assert "not measured either" in " ".join(answer(scores(arm("m", "masked"))))


def test_without_anything_trained() -> None:
    assert answer(scores(arm("a/b", "model", 0.5))) == [
        "Accuracy: a/b 50.0 % [48.0, 52.0].",
        "No trained run was evaluated.",
    ]
    assert "No masked run" in answer(scores(arm("full", "full", 0.5, gain=interval(0.2))))[1]


def test_several_masks_go_by_name_and_each_has_its_verdict() -> None:
    arms = [
        arm("full", "full", 0.9, gain=interval(0.3)),
        masked("good", Interval(0.97, 0.91, 1.03), 0.1),
        masked("poor", Interval(0.5, 0.4, 0.6), 0.01),
    ]
    text = " ".join(answer(scores(*arms)))
    assert "Training 10 % of the coordinates (good) kept 97 %" in text
    assert "training 1 % of the coordinates (poor) kept 50 %" in text
    assert "good: The interval includes 100 %" in text and "poor: That falls short" in text


def test_a_crowd_of_masks_is_cut_but_keeps_a_control() -> None:
    crowd = [masked(f"m{index}", Interval(0.9, 0.85, 0.95), 0.1) for index in range(9)]
    crowd += [masked("random", Interval(0.5, 0.4, 0.6), 0.1)]
    text = answer(Scores(name="n", settings={}, arms=[arm("full", "full", 0.9), *crowd]))
    assert (
        text[0].count(" kept ") == 4 and "(random)" in text[0] and "The table holds 6 more." in text
    )


def test_figures_as_words() -> None:
    assert [density(value) for value in (0.1, 0.0025, 1.0, 0.09974)] == [
        "10",
        "0.25",
        "100",
        "9.97",
    ]
    assert [points(value) for value in (0.348, -0.01, 0.0, -0.0001)] == [
        "+34.8",
        "−1.0",
        "0.0",
        "0.0",
    ]
    assert [kept(value) for value in (0.971, -0.12, 57.0, -57.0)] == ["97", "−12", ">999", "<−999"]
    assert [rate(value) for value in (3e-4, 1.5e-5, 1e-6, 0.05)] == [
        "3e-4",
        "1.5e-5",
        "1e-6",
        "0.05",
    ]
    assert [scientific(value) for value in (0.0, 0.02634, 1.2e-5)] == ["0", "0.0263", "1.2e-5"]
    assert show(None, kept) == show(float("nan"), kept) == MISSING


def test_shortened_names_keep_both_ends() -> None:
    short = shorten("masked/a-long-name\nwith seed 12", 20)
    assert (
        len(short) == 20
        and short.startswith("masked/")
        and short.endswith("seed 12")
        and "…" in short
    )
