"""`analyze` as a whole: interruption, siblings, scope, dtypes, threads."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparseopd.analysis import Analysis, AnalysisSettings, analyze
from sparseopd.analysis.measure import measure
from sparseopd.analysis.pooled import Pooled
from sparseopd.errors import AnalysisError, RequestError, RunFolderError
from tests.analysis.checkpoints import analyzed, matrices, noise, write

CORE = importlib.import_module("sparseopd.analysis.analyze")  # the package has its function there
SHAPES = {name: (24, 16 + place) for place, name in enumerate(matrices(6))} | {
    "model.norm.weight": (16,),
    "model.embed_tokens.weight": (50, 16),
}
FEW = AnalysisSettings(draws=2)


def made(seed: int, scale: float, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    return {
        name: noise(*shape, seed=seed + place, scale=scale).to(dtype)
        for place, (name, shape) in enumerate(SHAPES.items())
    }


BASE = made(0, 0.02)
UPDATE = made(100, 1e-4, torch.float32)
MASTER = {name: weight.float() + UPDATE[name] for name, weight in BASE.items()}
TUNED = {name: weight.bfloat16() for name, weight in MASTER.items()}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    return str(write(tmp_path / "base", BASE)), str(write(tmp_path / "tuned", TUNED))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def alike(one: Analysis, other: Analysis) -> bool:
    return replace(one, seconds=0) == replace(other, seconds=0)


def recorded(monkeypatch: pytest.MonkeyPatch, stop_at: str | None = None) -> list[str]:
    """Note which parts are measured; raise at one of them."""
    seen: list[str] = []

    def watched(part: Any, *rest: Any) -> Any:
        if part.name == stop_at:
            raise KeyboardInterrupt
        seen.append(part.name)
        return measure(part, *rest)

    monkeypatch.setattr(CORE, "measure", watched)
    return seen


def in_order() -> list[str]:
    return sorted(SHAPES, key=lambda name: (-torch.Size(SHAPES[name]).numel(), name))


@pytest.mark.parametrize("keep_every", [0.0, 10.0])
@pytest.mark.parametrize("finished", [1, 5])
def test_an_interrupted_analysis_goes_on_to_the_same_bits(
    pair: tuple[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: int,
    keep_every: float,
) -> None:
    whole = analyze(*pair, settings=FEW)
    monkeypatch.setattr(CORE, "KEEP_EVERY", keep_every)
    with monkeypatch.context() as patch:
        recorded(patch, stop_at=in_order()[finished])
        with pytest.raises(KeyboardInterrupt):
            analyze(*pair, settings=FEW, folder=folder)
    assert list(folder.iterdir())
    seen = recorded(monkeypatch)
    again = analyze(*pair, settings=FEW, folder=folder)
    assert sorted(seen) == sorted(in_order()[finished:])
    assert alike(again, whole)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("call", [1, 4, 9])
def test_an_interruption_while_a_part_is_added_counts_it_wholly_or_not_at_all(
    pair: tuple[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Ctrl-C can come between any two instructions."""
    whole, calls, add = analyze(*pair, settings=FEW), 0, Pooled.__add__

    def interrupted(self: Pooled, other: Pooled) -> Pooled:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return add(self, other)

    with monkeypatch.context() as patch:
        patch.setattr(Pooled, "__add__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            analyze(*pair, settings=FEW, folder=folder)
    assert alike(analyze(*pair, settings=FEW, folder=folder), whole)


def interrupt(pair: tuple[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        recorded(patch, stop_at=in_order()[3])
        with pytest.raises(KeyboardInterrupt):
            analyze(*pair, settings=FEW, folder=folder)


def touched(path: str) -> None:
    file = Path(path) / "model.safetensors"
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda pair: {"settings": replace(FEW, seed=1)},
        lambda pair: {"settings": replace(FEW, draws=3)},
        lambda pair: {"settings": replace(FEW, dtype="float32")},
        lambda pair: {"settings": replace(FEW, exclude=("*norm*",))},
        lambda pair: {"master": pair[1]},
        lambda pair: touched(pair[1]) or {},
        lambda pair: touched(pair[0]) or {},
    ],
)
def test_part_of_another_analysis_is_refused(
    pair: tuple[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[tuple[str, str]], dict[str, Any]],
) -> None:
    interrupt(pair, folder, monkeypatch)
    with pytest.raises(RunFolderError, match="holds part of an analysis"):
        analyze(*pair, **{"settings": FEW, "folder": folder, **change(pair)})


def test_a_damaged_part_is_refused(
    pair: tuple[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(pair, folder, monkeypatch)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RunFolderError, match="cannot be read"):
        analyze(*pair, settings=FEW, folder=folder)


def test_progress_names_every_part_and_ends_at_the_total(pair: tuple[str, str]) -> None:
    calls: list[tuple[str, int, int, str, str]] = []
    analyze(
        *pair,
        settings=AnalysisSettings(draws=0),
        progress=lambda stage, done, total, unit="", detail="": calls.append(
            (stage, done, total, unit, detail)
        ),
    )
    told = [call for call in calls if call[0] == "analysing"]
    assert told == calls[-len(told) :]
    assert [one[4] for one in told] == in_order()
    done, total = [one[1] for one in told], {one[2] for one in told}
    assert done == sorted(done)
    assert total == {done[-1]} == {2 * sum(weight.nbytes for weight in BASE.values())}
    assert {one[3] for one in told} == {"bytes"}


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {other: weight for other, weight in tensors.items() if other != name}


@pytest.mark.parametrize("side", ["tuned", "master"])
def test_siblings_have_the_same_tensors(side: str) -> None:
    sides = {"tuned": TUNED, "master": MASTER}
    label = {"tuned": "the tuned one", "master": "the master"}[side]
    name = "model.norm.weight"
    lacking = {**sides, side: without(sides[side], name)}
    with pytest.raises(AnalysisError, match=f"{label} lacks {name}"):
        analyzed(BASE, **lacking, draws=0)
    other = {**sides, side: sides[side] | {name: torch.ones(17)}}
    with pytest.raises(AnalysisError, match=rf"{name} is \(16,\) .*\(17,\) in {label}"):
        analyzed(BASE, **other, draws=0)


def test_scope_leaves_tensors_out_on_every_side() -> None:
    """What is out of scope need not be there, finite or of the same shape."""
    name = "model.norm.weight"
    kept = analyzed(without(BASE, name), without(TUNED, name), without(MASTER, name), draws=1)
    for sides in (
        (BASE, without(TUNED, name), MASTER),
        (BASE, TUNED, without(MASTER, name)),
        (BASE | {name: torch.full((16,), torch.nan)}, TUNED, MASTER),
        (BASE, TUNED | {name: torch.ones(3)}, MASTER),
    ):
        found = analyzed(*sides, draws=1, exclude=("norm",))
        assert found.tensors == kept.tensors
        assert found.whole == kept.whole
    found = analyzed(BASE, TUNED, draws=0, include=("attention",))
    assert [row["name"] for row in found.tensors] == sorted(matrices(6))


def test_scope_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match="no tensor matches 'vison'"):
        analyzed(BASE, TUNED, draws=0, exclude=("vison",))


@pytest.mark.parametrize(
    "settings", [{"draws": -1}, {"draws": 1001}, {"seed": -1}, {"dtype": "int8"}, {"dtype": "half"}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(AnalysisError):
        AnalysisSettings(**settings)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(AnalysisError, match="the device cuda:99 cannot be used"):
        analyzed(BASE, TUNED, draws=0, device="cuda:99")


def test_few_matrices_are_given_more_draws() -> None:
    for count, draws in ((1, 24), (4, 6), (6, 4)):
        names = matrices(count)
        base, tuned = ({name: side[name] for name in names} for side in (BASE, TUNED))
        found = analyzed(base, tuned, include=("*",))
        assert found.settings["draws"] == draws
        assert len(found.tensors[0]["gaussian"]["share_zero"]) == draws


def figures(found: Analysis, *sides: str) -> list[dict[str, Any]]:
    return [{side: row[side] for side in sides} for row in found.tensors]


def test_a_wider_tuned_checkpoint_is_its_own_master() -> None:
    found = analyzed(BASE, MASTER, draws=2)
    assert found.master == "the tuned one"
    assert found.dtypes["stored"] == {"base": ["bfloat16"], "tuned": ["float32"]}
    assert found.dtypes["compared"] == ["bfloat16"]
    apart = analyzed(BASE, TUNED, MASTER, draws=2)
    assert apart.master == "the master"
    assert apart.dtypes["stored"]["master"] == ["float32"]
    sides = ("observed", "master", "shuffled", "gaussian")
    assert figures(found, *sides) == figures(apart, *sides)
    assert (found.whole, found.verdicts) == (apart.whole, apart.verdicts)


def test_figures_before_rounding_are_those_of_float32() -> None:
    found = analyzed(BASE, MASTER, draws=0)
    wide = analyzed({name: weight.float() for name, weight in BASE.items()}, MASTER, draws=0)
    assert [row["master"] for row in found.tensors] == [row["observed"] for row in wide.tensors]
    assert found.whole["master"]["share_zero"] < found.whole["observed"]["share_zero"]
    assert wide.master is None and wide.whole["master"] is None


def test_without_a_master_there_are_no_figures_before_rounding() -> None:
    found = analyzed(BASE, TUNED, draws=0)
    assert found.master is None and found.whole["master"] is None
    assert not any("master" in row for row in found.tensors)


def test_wide_checkpoints_can_be_compared_rounded() -> None:
    """Both sides as who serves them in bfloat16 would hold them; float32 becomes the master."""
    base = made(0, 0.02, torch.float32)
    tuned = {name: weight + UPDATE[name] for name, weight in base.items()}
    found = analyzed(base, tuned, draws=0, dtype="bfloat16")
    rounded = [{name: side[name].bfloat16() for name in side} for side in (base, tuned)]
    assert figures(found, "observed") == figures(analyzed(*rounded, draws=0), "observed")
    wide = analyzed(base, tuned, draws=0)
    assert [row["master"] for row in found.tensors] == [row["observed"] for row in wide.tensors]
    assert found.dtypes["compared"] == ["bfloat16"]
    assert wide.dtypes["compared"] == ["float32"]


def test_the_narrower_side_decides_the_dtype() -> None:
    found = analyzed(MASTER, TUNED, draws=0)
    assert found.dtypes["compared"] == ["bfloat16"]
    assert found.whole["observed"]["share_zero"] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.float8_e4m3fn])
def test_other_dtypes_are_analysed_too(dtype: torch.dtype) -> None:
    base, tuned = made(0, 0.5, dtype), made(1, 0.5, dtype)
    found = analyzed(base, tuned, draws=1)
    stored = str(dtype).removeprefix("torch.")
    assert found.dtypes["stored"] == {"base": [stored], "tuned": [stored]}
    name = "model.norm.weight"
    (row,) = [row for row in found.tensors if row["name"] == name]
    norm = float((tuned[name].double() - base[name].double()).norm())
    assert row["observed"]["delta_fro"] == pytest.approx(norm, rel=5e-3)


def test_threads_change_nothing() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(analyzed(BASE, TUNED, draws=2))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert alike(*found)


def test_large_parts_are_measured_alone_with_the_same_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = analyzed(BASE, TUNED, draws=2)
    monkeypatch.setattr(CORE, "ALONE", 380)
    alone = analyzed(BASE, TUNED, draws=2)
    assert alone.findings == found.findings
    for row, other in zip(alone.tensors, found.tensors, strict=True):
        assert row["observed"] == pytest.approx(other["observed"], rel=1e-9, abs=1e-9)


def test_an_analysis_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = analyzed(BASE, TUNED, MASTER, draws=2)
    found.save(tmp_path / "analysis.json")
    read = Analysis.load(tmp_path / "analysis.json")
    assert replace(read, settings={}) == replace(found, settings={})


@pytest.mark.parametrize(
    ("master", "says"),
    [
        ({name: noise(*weight.shape, seed=9) for name, weight in TUNED.items()}, "does not round"),
        (TUNED, "no wider than"),
    ],
)
def test_a_master_that_is_not_the_tuned_one_before_rounding_is_refused(
    master: dict[str, Tensor], says: str
) -> None:
    with pytest.raises(AnalysisError, match=says):
        analyzed(BASE, TUNED, master, draws=0)


@pytest.mark.gpu
def test_a_gpu_gives_the_figures_of_the_cpu(pair: tuple[str, str]) -> None:
    """Nulls too: they are drawn on the CPU. Ties at the edge of a mask may fall otherwise."""
    here, there = (
        analyze(*pair, settings=AnalysisSettings(draws=2, device=device))
        for device in ("cpu", "cuda")
    )
    for one, other in zip(here.tensors, there.tensors, strict=True):
        for side in ("observed", "gaussian"):
            for name, value in one[side].items():
                tolerance = 0.02 if "coverage" in name else 1e-6
                assert other[side][name] == pytest.approx(value, rel=tolerance, abs=1e-7), name
