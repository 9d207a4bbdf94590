"""CSV tables: every figure with every digit, the same columns always, names as they are."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from sparseopd.analysis import Analysis
from sparseopd.analysis.tables import write_tables
from sparseopd.errors import RunFolderError
from tests.report.analyses import HOSTILE, hostile, odd, structured, with_master, without_nulls

FILES = ["whole.csv", "groups.csv", "tensors.csv", "spectra.csv", "joint.csv", "paper_row.csv"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | None:
    return float(text) if text else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tables")
    assert write_tables(with_master(), made) == [made / name for name in FILES]
    return made


def test_the_whole_has_every_figure_with_every_digit(folder: Path) -> None:
    whole, rows = with_master().whole, read(folder / "whole.csv")
    listed = {row["figure"]: row for row in rows}
    assert len(listed) == len(rows) and listed["numel"]["observed"] == str(whole["numel"])
    for figure, value in whole["observed"].items():
        assert number(listed[figure]["observed"]) == value
        assert number(listed[figure]["master"]) == whole["master"].get(figure)
    for kind in ("shuffled", "gaussian"):
        for figure, spread in whole[kind].items():
            assert number(listed[figure][f"{kind}_mean"]) == spread["mean"]
            assert number(listed[figure][f"{kind}_sd"]) == spread["sd"]


def test_verdicts_stand_beside_what_they_judge(folder: Path) -> None:
    listed = {row["figure"]: row for row in read(folder / "whole.csv")}
    seen = with_master().verdicts["svd_energy_top1"]
    row = listed["median_svd_energy_top1"]
    assert (
        row["family"] == "spectrum" and row["structure"] == "true" == str(seen["structure"]).lower()
    )
    assert number(row["gaussian_z"]) == seen["gaussian"]["z"]
    assert number(row["shuffled_p"]) == seen["shuffled"]["p"]
    assert listed["relative_norm"]["structure"] == listed["relative_norm"]["family"] == ""


def test_groups_are_the_same_by_block_module_and_layer(folder: Path) -> None:
    rows = read(folder / "groups.csv")
    groups = with_master().groups
    assert {(row["kind"], row["name"]) for row in rows} == {
        (kind, name) for kind, names in groups.items() for name in names
    }
    held = {(row["kind"], row["name"], row["figure"]): row for row in rows}
    assert len(held) == len(rows)
    found = held["module", "q_proj", "share_le_1e-5"]
    assert number(found["observed"]) == groups["module"]["q_proj"]["observed"]["share_le_1e-5"]
    judged = {row["kind"] for row in rows if row["structure"]}
    assert judged == {"module"}


def test_a_tensor_has_a_row_with_the_means_of_its_nulls(folder: Path) -> None:
    rows = read(folder / "tensors.csv")
    tensors = with_master().tensors
    assert [row["name"] for row in rows] == [tensor["name"] for tensor in tensors]
    for row, tensor in zip(rows, tensors, strict=True):
        assert row["shape"] == "x".join(map(str, tensor["shape"]))
        assert (row["stored_base"], row["stored_tuned"]) == ("bfloat16", "float32")
        for figure, value in tensor["observed"].items():
            assert number(row[figure]) == value
        assert number(row["master.share_zero"]) == tensor["master"]["share_zero"]
        mean = fmean(tensor["gaussian"]["share_zero"])
        assert number(row["gaussian.share_zero"]) == pytest.approx(mean)


def test_spectra_have_each_rank_of_a_matrix_once(folder: Path) -> None:
    rows = read(folder / "spectra.csv")
    matrices = [tensor for tensor in with_master().tensors if len(tensor["shape"]) == 2]
    assert list(dict.fromkeys(row["name"] for row in rows)) == [one["name"] for one in matrices]
    for tensor in matrices:
        own = [row for row in rows if row["name"] == tensor["name"]]
        ranks = [int(row["rank"]) for row in own]
        assert ranks == sorted(set(ranks)) and ranks[0] == 1 and ranks[-1] == min(tensor["shape"])
        assert [float(own[0][side]) for side in ("observed", "master", "gaussian")] == [1, 1, 1]
        falling = [float(row["shuffled"]) for row in own]
        assert falling == sorted(falling, reverse=True)
        assert float(own[-1]["observed"]) == tensor["curve"]["observed"][-1]


def test_joint_counts_are_all_coordinates(folder: Path) -> None:
    rows = read(folder / "joint.csv")
    for side in ("observed", "gaussian"):
        assert sum(int(row[side]) for row in rows) == with_master().whole["numel"]
    still = sum(int(row["observed"]) for row in rows if float(row["change"]) == 0)
    assert still == round(
        with_master().whole["observed"]["share_zero"] * with_master().whole["numel"]
    )


def test_the_papers_runs_follow_the_updates_rows(folder: Path) -> None:
    rows = read(folder / "paper_row.csv")
    sides = [row["side"] for row in rows]
    assert sides == ["observed", "master", "shuffled", "gaussian", *["paper"] * 10]
    assert number(rows[0]["exact_zero"]) == 100 * with_master().whole["observed"]["share_zero"]


def headings(analysis: Analysis, folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(encoding="utf-8").splitlines()[0]
        for path in write_tables(analysis, folder)
        if path.name != "tensors.csv"
    }


def test_columns_do_not_hang_on_what_was_measured(tmp_path: Path) -> None:
    shown = headings(structured(), tmp_path)
    for analysis in (without_nulls(), odd("nothing moved"), odd("vectors alone")):
        assert headings(analysis, tmp_path) == shown


def test_tensors_without_nulls_or_master_have_no_columns_for_them(tmp_path: Path) -> None:
    write_tables(without_nulls(), tmp_path)
    columns = read(tmp_path / "tensors.csv")[0].keys()
    assert "share_zero" in columns
    assert not any(name.startswith(("master.", "shuffled.", "gaussian.")) for name in columns)
    write_tables(structured(), tmp_path)
    columns = read(tmp_path / "tensors.csv")[0].keys()
    assert "shuffled.share_zero" in columns and "master.share_zero" not in columns


def test_names_come_back_as_they_were(tmp_path: Path) -> None:
    write_tables(hostile(), tmp_path)
    names = {row["name"] for row in read(tmp_path / "tensors.csv")}
    assert names == {tensor["name"] for tensor in hostile().tensors}
    assert read(tmp_path / "paper_row.csv")[0]["run"] == HOSTILE


def test_a_name_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    write_tables(replace(structured(), name="run-\udcff"), tmp_path)
    assert read(tmp_path / "paper_row.csv")[0]["run"] == "run-\\udcff"


@pytest.mark.parametrize("name", ["nothing moved", "vectors alone", "one matrix", "one draw"])
def test_what_is_missing_is_empty(name: str, tmp_path: Path) -> None:
    write_tables(odd(name), tmp_path)
    for path in tmp_path.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not {"nan", "None", "inf"} & set(text.replace("\n", ",").split(","))
    assert not read(tmp_path / "spectra.csv") or name != "vectors alone"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"whole\.csv"):
        write_tables(structured(), tmp_path / "missing")
