"""The answer of a comparison says what its tests found, and what they leave open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparseopd.report import comparison_tables
from sparseopd.report.comparison_answer import NO_GRADER, comparison_answer, overall, study_answer
from sparseopd.report.comparison_arms import (
    against_full,
    against_random,
    by_density,
    by_steps,
    main,
)
from sparseopd.results import ArmResult, Study, Verdict
from tests.report.comparisons import (
    HOSTILE,
    bare,
    base_arms,
    hostile,
    interval,
    many_arms,
    masked,
    realistic,
    results,
    study,
    ungraded,
    verdict,
)
from tests.report.reading import printed


def plain(sentences: list[str]) -> str:
    return " ".join(sentences).replace("\u00a0", " ")


def with_main(**fields: Verdict | None) -> Study:
    """A small study whose discovered mask is tested so."""
    first, *rest = base_arms()[3:]
    return study("s", "", [*base_arms()[:3], replace(first, **fields), *rest])  # pyright: ignore


@pytest.mark.parametrize(
    ("difference", "half", "reading", "lead"),
    [
        (-0.003, 0.010, "equal", "found in 30 steps, matches full training (−0.3 points"),
        (-0.041, 0.012, "lower", "falls short of full training (−4.1 points [−5.3, −2.9]"),
        (0.030, 0.012, "higher", "does better than full training (+3.0 points"),
        (-0.007, 0.020, "not settled", "neither shown equal nor different"),
    ],
)
def test_match_with_full_is_said_as_tested(
    difference: float, half: float, reading: str, lead: str
) -> None:
    test = verdict(difference, half, margin=0.02)
    said = plain(study_answer(with_main(equivalence=test)))
    assert against_full(test) == reading
    assert lead in said and "margin ±2 points" in said
    assert ("p = " in said.split(";")[0]) == (reading in ("equal", "not settled"))


@pytest.mark.parametrize(
    ("difference", "reading", "lead"),
    [
        (
            0.03,
            "better",
            "Its mask beats “random 10 %” (+3.0 points [+1.8, +4.2], adjusted p = 0.012)",
        ),
        (-0.03, "worse", "Its mask does worse than “random 10 %” (−3.0 points [−4.2, −1.8])"),
        (0.01, "not settled", "It is not settled whether its mask beats “random 10 %”"),
    ],
)
def test_margin_over_random_is_said_as_tested(difference: float, reading: str, lead: str) -> None:
    test = verdict(difference, against="random 10 %")
    assert against_random(test) == reading
    assert lead in plain(study_answer(with_main(superiority=test)))


def test_random_mask_that_matches_full_too_is_told() -> None:
    arms = base_arms()
    same = replace(arms[4], equivalence=verdict(0.0, margin=0.02))
    said = plain(study_answer(study("s", "", [*arms[:4], same])))
    assert "that random mask, too, matches full training" in said
    assert "too, matches" not in plain(study_answer(study("s", "", arms)))


def test_how_small_and_how_short_name_the_least_equal() -> None:
    said = study_answer(study("s", "", many_arms()))
    assert (
        "How small: 10 % is the least tested density that matches full training "
        "(1 % lower, 3 % not settled)." in said
    )
    assert (
        "How short, at 10 %: 30 steps is the least tested discovery that matches full training "
        "(5 steps lower, 10 steps lower)." in said
    )


def test_least_says_where_greater_ones_are_not_equal() -> None:
    arms = [masked("discovered", share, value) for share, value in ((0.1, 0.96), (0.3, 0.93))]
    said = plain(study_answer(study("s", "", [*base_arms()[:3], *arms])))
    assert "and no lesser density was tested; of greater ones, 30 % lower." in said


def test_least_is_not_claimed_where_none_is_equal() -> None:
    arms = [masked("discovered", share, 0.93) for share in (0.1, 0.3)]
    said = plain(study_answer(study("s", "", [*base_arms()[:3], *arms])))
    assert "no tested density is shown equal to full training (10 % lower, 30 % lower)." in said


def test_main_mask_is_chosen_by_density_and_not_by_result() -> None:
    arms = [masked("discovered", share, value) for share, value in ((0.01, 0.99), (0.3, 0.9))]
    assert main(study("s", "", arms)) is arms[1]
    assert main(study("s", "", many_arms())) == masked("discovered", 0.1, 0.959)


def test_series_differ_in_one_thing_alone() -> None:
    whole = study("s", "", many_arms())
    densities, steps = by_density(whole), by_steps(whole)
    assert [arm.density for arm in densities["discovered"]] == [0.01, 0.03, 0.1, 0.3]
    assert {arm.discovery_steps for arm in densities["discovered"]} == {30}
    assert [arm.discovery_steps for arm in steps[0.1]] == [5, 10, 30, 60, 120]
    assert not any(arm.found_on or arm.reordered for arm in steps[0.1])


def test_studies_are_counted_and_each_is_named() -> None:
    first, second, *_ = comparison_answer(realistic())
    assert first == (
        "The sparse student matches full training in 2 of 4 studies (tiny-arithmetic, "
        "tiny-arithmetic-sibling); falls short in 1 (tiny-arithmetic-hint); is not settled in 1 "
        "(tiny-digits)."
    )
    assert "in none of 4 studies; does worse in 1 (tiny-arithmetic-hint)" in second
    for one in realistic().studies:
        assert any(told.startswith(f"{one.name}: ") for told in comparison_answer(realistic()))


def test_one_study_is_not_counted() -> None:
    alone = results(realistic().studies[0])
    assert overall(alone) == [] and comparison_answer(alone) == study_answer(alone.studies[0])


def test_untested_arms_claim_nothing() -> None:
    said = plain(comparison_answer(bare()))
    assert "reached 89.0 % [87.0, 91.0]. There is no test against full training" in said
    assert "There is no test against a random mask" in said
    assert "matches" not in said and "beats" not in said


def test_gain_that_is_not_clear_is_told() -> None:
    arms = base_arms()
    unclear = replace(arms[2], gain=interval(0.004, 0.01))
    said = plain(study_answer(study("s", "", [*arms[:2], unclear, *arms[3:]])))
    assert "matching it would mean little here" in said
    assert "would mean little" not in plain(study_answer(study("s", "", arms)))


def test_without_grader_kl_is_all_that_is_said() -> None:
    first, second = comparison_answer(ungraded())
    assert first.startswith("KL to the teacher") and "random 10 % 0.0208" in first
    assert second == NO_GRADER


def test_empty_comparison_says_so() -> None:
    assert comparison_answer(results()) == ["This comparison holds no study."]
    assert comparison_answer(results(study("s", "", []))) == ["No arm was compared."]


def test_tables_fit_a_terminal_of_80_columns() -> None:
    text = printed(*comparison_tables(realistic()))
    assert "96.0 [94.9, 97.1]" in text and "better" in text and "0.0164" in text
    assert len(comparison_tables(realistic())) == 5
    assert len(comparison_tables(results(realistic().studies[0]))) == 1


def test_tables_fit_with_the_widest_figures_and_hostile_names() -> None:
    printed(*comparison_tables(hostile()))
    far = ArmResult(
        name="w" * 90, kind="masked", density=0.000123, lr=1.25e-12, accuracy=interval(1.0, 0.0),
        kl=interval(1.23e-5, 0), kept=interval(-88, 900), equivalence=verdict(-0.9, margin=0.02),
        superiority=verdict(0.5),
    )  # fmt: skip
    text = printed(*comparison_tables(results(study("s", "", [far]))))
    assert "lower" in text and "better" in text and "1.23e-5" in text
    assert "\x1b" not in printed(*comparison_tables(hostile())) and "[red]" in HOSTILE


def test_tables_without_grader_leave_accuracy_out() -> None:
    text = printed(*comparison_tables(ungraded()))
    assert "no grader" in text and "Accuracy" not in text
    assert comparison_tables(results()) == []
