"""CSV files hold what the page shows, with every digit, and the paper's numbers beside it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from sparseopd.analysis.paper import COLUMNS, PAPER
from sparseopd.report.comparison_csv import PAPERS, write_csvs
from sparseopd.report.comparison_paper import beyond_mark, training_arms
from sparseopd.report.paper_tables import MASK_TRAINING, OPTIMIZERS, OVERLAPS
from sparseopd.results import Results
from tests.report.comparisons import (
    HOSTILE,
    bare,
    base_arms,
    hostile,
    masked,
    realistic,
    results,
    study,
)

Table = list[dict[str, str]]


def tables(comparison: Results, folder: Path) -> dict[str, Table]:
    files = write_csvs(comparison, folder)
    return {
        name: list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))
        for name, content in files.items()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    return tables(realistic(), tmp_path_factory.mktemp("csv"))


def test_every_arm_has_a_row_with_its_figures(written: dict[str, Table]) -> None:
    arms = [(one.name, arm) for one in realistic().studies for arm in one.arms]
    assert len(written["arms.csv"]) == len(arms)
    for row, (name, arm) in zip(written["arms.csv"], arms, strict=True):
        assert (row["study"], row["name"]) == (name, arm.name)
        assert arm.accuracy is not None and float(row["accuracy_low"]) == arm.accuracy.low
        verdict = arm.equivalence
        assert row["equivalence_found"] == ("" if verdict is None else str(verdict.found).lower())


def test_missing_figures_are_empty(written: dict[str, Table]) -> None:
    source = written["arms.csv"][0]
    assert source["lr"] == source["kept_mean"] == source["equivalence_p"] == source["seconds"] == ""


def test_seeds_and_trials_have_a_row_each(written: dict[str, Table]) -> None:
    arms = [arm for one in realistic().studies for arm in one.arms]
    assert len(written["seeds.csv"]) == sum(len(arm.seeds) for arm in arms)
    assert len(written["trials.csv"]) == sum(len(arm.trials) for arm in arms)
    assert len(written["curves.csv"]) == sum(len(arm.curve) for arm in arms)
    best = [row for row in written["trials.csv"] if row["best"] == "true"]
    assert {row["arm"] for row in best} <= {arm.name for arm in arms} and len(best) > 10


def test_papers_own_numbers_stand_beneath(written: dict[str, Table]) -> None:
    counts = {
        "geometry.csv": len(PAPER),
        "mask_training.csv": len(MASK_TRAINING),
        "optimizers.csv": 2 * len(OPTIMIZERS),
        "overlaps.csv": len(OVERLAPS),
    }
    for name, count in counts.items():
        own = [row["study"] == PAPERS for row in written[name]]
        assert sum(own) == count and own == sorted(own) and not all(own)
    last = written["geometry.csv"][-1]
    assert [float(last[column.key]) for column in COLUMNS] == list(PAPER[-1].values)


def test_papers_tables_are_as_published() -> None:
    text, image = MASK_TRAINING[0], MASK_TRAINING[2]
    assert (text.full, text.own, text.other, text.random) == (35.52, 35.10, 34.69, 32.92)
    assert (image.full, image.own, image.other, image.random) == (55.72, 54.24, 49.98, 52.30)
    assert image.random_other == 47.40
    assert [(row.full, row.own) for row in MASK_TRAINING[1::2]] == [(34.27, 34.73), (54.94, 54.23)]
    adam, sgd = OPTIMIZERS
    assert (adam.peak, adam.final, sgd.peak, sgd.final) == (43.02, 42.40, 39.06, 37.92)
    assert adam.cosine == (0.958, 0.280, -0.351, 0.008) and adam.variation == (6.49, 4.85, 3.83)
    assert [(row.chance, row.observed, row.chance_back, row.observed_back) for row in OVERLAPS] == [
        (17.5, 53.2, 22.1, 67.2),
        (33.3, 73.5, 13.4, 29.7),
        (29.6, 80.2, 17.5, 47.5),
    ]


def test_mask_training_pairs_masks_of_one_density(written: dict[str, Table]) -> None:
    rows = [row for row in written["mask_training.csv"] if row["study"].endswith("sibling")]
    assert [row["random_arm"] for row in rows] == [
        f"random {share} %" for share in ("1", "3", "10", "30")
    ]
    assert [bool(row["other_arm"]) for row in rows] == [False, False, True, False]


def test_other_method_of_another_density_stands_beside_its_own_random_mask() -> None:
    other = masked("discovered", 0.3, 0.94, found_on="another method", name="other")
    random = masked("random", 0.3, 0.95)
    whole = study("s", "", [*base_arms(), other, random])
    found = training_arms(whole, whole.arms[3])
    assert [arm and arm.name for arm in found] == [
        *("full OPD", "discovered 10 %", "other", "random 10 %", "random 30 %"),
    ]


def test_telemetry_is_summed_up_over_seeds(written: dict[str, Table]) -> None:
    adam, sgd, momentum, *_ = written["optimizers.csv"]
    assert (adam["optimizer"], sgd["optimizer"]) == ("adamw", "sgd")
    assert float(adam["cosine_start"]) == pytest.approx(0.856, abs=1e-3)
    assert float(adam["variation_start"]) > float(adam["variation_end"])
    assert sgd["cosine_start"] == "" and momentum["variation_mean"] == ""


@pytest.mark.parametrize(
    ("sides", "mark"),
    [
        (["above", "above"], "▲"),
        (["below"], "▼"),
        (["above", "", "above"], "▲ 2/3"),
        (["above", "below"], ""),
        (["", ""], ""),
        ([], ""),
    ],
)
def test_mark_says_on_which_side_of_the_nulls(sides: list[str], mark: str) -> None:
    assert beyond_mark(sides) == mark


def test_what_was_not_measured_has_no_file_and_old_ones_go(tmp_path: Path) -> None:
    write_csvs(realistic(), tmp_path)
    assert (tmp_path / "geometry.csv").exists()
    assert set(write_csvs(bare(), tmp_path)) == {"arms.csv", "settings.csv"}
    assert not (tmp_path / "geometry.csv").exists()


def test_hostile_names_survive_in_their_cells(tmp_path: Path) -> None:
    rows = tables(hostile(), tmp_path)["arms.csv"]
    assert rows[0]["study"] == HOSTILE and rows[1]["name"] == f"{HOSTILE} 1"


def test_settings_hold_command_and_versions(written: dict[str, Table]) -> None:
    rows = {(row["of"], row["name"]): row["value"] for row in written["settings.csv"]}
    assert rows["comparison", "command"].startswith("sparseopd compare")
    assert rows["comparison", "tuning: factor"] == "3.16"
    assert rows["tiny-arithmetic", "sampling: temperature"] == "1.0"
    assert rows["versions", "torch"] == "2.13.0"


def test_empty_comparison_writes_its_settings_alone(tmp_path: Path) -> None:
    assert set(write_csvs(results(), tmp_path)) == {"settings.csv"}
