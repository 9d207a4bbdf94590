"""Exactly k, always, and the k largest: against a reference that sorts everything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks import edge as edge_module
from sparseopd.masks import ranking, stream
from sparseopd.masks.keys import keys, uniform
from sparseopd.masks.select import take_many
from sparseopd.selection import build
from tests.masks.held import compare, small_pieces

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (4, 0), (2, 3, 4), (50,), (9, 8)]
VALUES = [0.0, -0.0, 1.0, 1.0, 1.0078125, -1.5, 2.0, 3e4, 1e-45, 1e-8, 0.5]


def top(
    base: dict[str, Tensor], tuned: dict[str, Tensor], seed: int = 0, **chosen
) -> dict[str, Tensor]:
    comparison = compare(base, tuned, seed=seed)
    with small_pieces():
        [taken] = take_many(comparison, [build(**chosen)])
        return {name: taken.bitmaps[name].unpack() for name in taken.bitmaps}


def reference(
    base: dict[str, Tensor], tuned: dict[str, Tensor], k: int, seed: int
) -> set[tuple[str, int]]:
    """Sort every coordinate by |Δ|, ties by their key, and take the first k."""
    ranked = []
    for name in base:
        wide = (
            torch.float64
            if torch.float64 in (base[name].dtype, tuned[name].dtype)
            else torch.float32
        )
        size = (tuned[name].to(wide) - base[name].to(wide)).float().abs().reshape(-1)
        own = keys("ties", name, 0, len(size), seed)
        ranked += [(-float(size[i]), int(own[i]), name, i) for i in range(len(size))]
    return {(name, i) for _, _, name, i in sorted(ranked)[:k]}


def chosen_of(flags: dict[str, Tensor]) -> set[tuple[str, int]]:
    return {(name, int(i)) for name, flag in flags.items() for i in flag.reshape(-1).nonzero()}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    base, tuned = {}, {}
    for index in range(draw(st.integers(1, 4))):
        shape = draw(st.sampled_from(SHAPES))
        numel = math.prod(shape)
        for side in (base, tuned):
            values = draw(
                st.lists(
                    st.sampled_from(VALUES) | st.floats(-4, 4, width=32),
                    min_size=numel,
                    max_size=numel,
                )
            )
            dtype = draw(st.sampled_from(DTYPES))
            side[f"t{index}"] = torch.tensor(values, dtype=torch.float64).reshape(shape).to(dtype)
    return base, tuned


@given(pair=pairs(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_choice_is_the_references(pair: tuple, data: st.DataObject) -> None:
    base, tuned = pair
    numel = sum(tensor.numel() for tensor in base.values())
    if not numel:
        return
    k, seed = data.draw(st.integers(1, numel)), data.draw(st.integers(0, 3))
    flags = top(base, tuned, seed, k=k)
    assert chosen_of(flags) == reference(base, tuned, k, seed)
    assert all(flags[name].shape == base[name].shape for name in base)


@given(
    seed=st.integers(0, 5),
    k=st.integers(1, 600),
    share=st.floats(0, 1),
    many=st.sampled_from([1, 64]),
    shelf=st.sampled_from([0, 100, 1 << 20]),
    batch=st.sampled_from([1, 40, 1 << 22]),
)
@settings(max_examples=80, deadline=None)
def test_heavy_ties_across_tensors_and_pieces(
    seed: int, k: int, share: float, many: int, shelf: int, batch: int
) -> None:
    """However ties are kept: as bitmaps or one by one, in memory or in a file, in whatever batches."""
    generator = torch.Generator().manual_seed(seed)
    base = {name: torch.zeros(200) for name in ("a", "b", "c")}
    tuned = {
        name: (torch.rand(200, generator=generator) < share) * 2.0**-13 for name in ("a", "b", "c")
    }
    with (
        mock.patch.object(ranking, "MANY", many),
        mock.patch.object(stream, "SHELF_BYTES", shelf),
        mock.patch.object(edge_module, "_BATCH", batch),
    ):
        assert chosen_of(top(base, tuned, seed, k=k)) == reference(base, tuned, k, seed)


def test_a_wrong_guess_of_the_last_tie_is_widened() -> None:
    base = {"a": torch.zeros(500)}

    def skewed(use: str, name: str, start: int, stop: int, seed: int) -> np.ndarray:
        return np.arange(start, stop, dtype=np.uint32)

    with mock.patch.object(edge_module, "keys", skewed):
        flags = top(base, base, k=250)
    assert flags["a"].tolist() == [index < 250 for index in range(500)]


@contextmanager
def sampling(share: int) -> Iterator[None]:
    """Sample even small models, a `share`-th of every piece."""
    with (
        mock.patch.object(ranking, "LARGE", 1),
        mock.patch.object(ranking, "SAMPLED", share),
    ):
        yield


@given(pair=pairs(), data=st.data(), share=st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_a_sample_changes_no_choice(pair: tuple, data: st.DataObject, share: int) -> None:
    base, tuned = pair
    numel = sum(tensor.numel() for tensor in base.values())
    if not numel:
        return
    k = data.draw(st.integers(1, numel))
    with sampling(share):
        assert chosen_of(top(base, tuned, 0, k=k)) == reference(base, tuned, k, 0)


@pytest.mark.parametrize("k", [1, 40, 500, 1000, 1999, 2000])
def test_samples_that_fit_and_that_mislead(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"a": torch.zeros(2000)}
    even = 1 + 0.2 * torch.rand(2000, generator=generator)
    misleading = even + 0.5 * (
        torch.arange(2000) % 16 < 4
    )  # what is sampled of every piece is large
    steep = torch.logspace(-30, 30, 2000)  # too wide to guess
    held = {}
    for name, values in {"even": even, "misleading": misleading, "steep": steep}.items():
        tuned, held[name], real = {"a": values}, [], ranking._Pass.holds

        def holds(self: ranking._Pass, k: int, seen: list = held[name], real=real) -> bool:
            seen.append(real(self, k))
            return seen[-1]

        with sampling(4), mock.patch.object(ranking._Pass, "holds", holds):
            assert chosen_of(top(base, tuned, 0, k=k)) == reference(base, tuned, k, 0)
    if k == 1000:
        assert held == {"even": [True], "misleading": [False], "steep": []}


def test_infinities_come_first() -> None:
    inf = float("inf")
    base = {"a": torch.tensor([0.0, 1.0, 0.0, inf]), "b": torch.tensor([0.0, -inf])}
    tuned = {"a": torch.tensor([inf, 3e38, -inf, 0.0]), "b": torch.tensor([5.0, 0.0])}
    assert chosen_of(top(base, tuned, k=4)) == {("a", 0), ("a", 2), ("a", 3), ("b", 1)}
    assert ("a", 1) in chosen_of(top(base, tuned, k=5))


@pytest.mark.parametrize(
    "pattern",
    [0x7FC00000, -0x400000, 0x7F800001, 0x7FFFFFFF],
    ids=["quiet", "signed", "signalling", "last"],
)
@pytest.mark.parametrize("selector", ["topk", "low-magnitude", "saliency"])
def test_what_is_not_a_number_names_the_tensor(pattern: int, selector: str) -> None:
    bad = torch.zeros(40)
    bad.view(torch.int32)[33] = pattern
    good = {"a": torch.zeros(5), "bad": torch.zeros(40)}
    side = {**good, "bad": bad}
    base, tuned = (side, None) if selector == "low-magnitude" else (good, side)
    with (
        small_pieces(),
        pytest.raises(MaskError, match=r"bad has values that are not numbers.*after coordinate 32"),
    ):
        take_many(compare(base, tuned), [build(selector=selector, k=3, budget="global")])


def test_ties_depend_on_the_seed_but_not_on_pieces() -> None:
    base = {name: torch.zeros(50) for name in ("a", "b", "c")}
    one = top(base, base, 3, k=40)
    with small_pieces(1000):
        [whole] = take_many(compare(base, base, seed=3), [build(k=40)])
    assert all(torch.equal(one[name], whole.bitmaps[name].unpack()) for name in base)
    assert chosen_of(one) != chosen_of(top(base, base, 4, k=40))


@pytest.mark.parametrize("budget", ["tensor", "block"])
def test_budgets_take_each_groups_share(budget: str) -> None:
    generator = torch.Generator().manual_seed(0)
    names = [
        "m.layers.0.mlp.up.weight",
        "m.layers.1.mlp.up.weight",
        "m.norm.weight",
        "m.embed_tokens.weight",
    ]
    sizes = [100, 31, 7, 63]
    base = {name: torch.zeros(size) for name, size in zip(names, sizes, strict=True)}
    tuned = {name: torch.rand(len(zero), generator=generator) for name, zero in base.items()}
    flags = top(base, tuned, density=0.1, budget=budget)
    assert sum(int(flag.sum()) for flag in flags.values()) == 20  # round(0.1 · 201)
    for name, flag in flags.items():
        if budget == "tensor":
            assert int(flag.sum()) in (len(flag) // 10, len(flag) // 10 + 1)
        least = tuned[name][flag].min() if flag.any() else math.inf
        if budget == "tensor" or name == names[2]:
            assert bool((tuned[name][~flag] <= least).all())
    if budget == "block":
        ffn = sum(int(flags[name].sum()) for name in names[:2])
        assert ffn in (13, 14)


def test_several_densities_share_their_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.zeros(300) for name in ("a", "b")}
    tuned = {name: torch.rand(300, generator=generator) for name in base}
    together = take_many(compare(base, tuned), [build(density=d) for d in (0.01, 0.2, 1.0)])
    for density, taken in zip((0.01, 0.2, 1.0), together, strict=True):
        alone = top(base, tuned, density=density)
        assert all(torch.equal(taken.bitmaps[name].unpack(), alone[name]) for name in base)


@pytest.mark.parametrize("budget", ["global", "tensor"])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_coordinates_that_did_not_move_are_counted(budget: str, share: float) -> None:
    base = {name: torch.zeros(100) for name in ("a", "b")}
    moved = torch.arange(100) < 100 * share
    tuned = {"a": moved.float(), "b": torch.zeros(100)}
    with small_pieces():
        [taken] = take_many(compare(base, tuned), [build(density=0.3, budget=budget)])
    chosen = sum(int(taken.bitmaps[name].unpack()[moved].sum()) for name in ("a",))
    assert taken.idle == 60 - chosen


def test_random_numbers_are_uniform_and_of_their_name() -> None:
    drawn = uniform("u", "a", 0, 200_000, seed=0)
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() < 1
    counts = np.bincount((drawn * 16).astype(int), minlength=16)
    assert np.abs(counts / 200_000 - 1 / 16).max() < 0.003  # 5.5 standard deviations
    assert not np.array_equal(drawn, uniform("u", "b", 0, 200_000, seed=0))
    assert np.array_equal(drawn[64:128], uniform("u", "a", 64, 128, seed=0))
    other = uniform("ties", "a", 0, 200_000, seed=0)
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.012  # 5.4 standard deviations


@pytest.mark.parametrize(
    "chosen, sentence",
    [({"k": 99}, "k is 99 and the scope has 6 coordinates"), ({"density": 0.01}, "rounds to none")],
)
def test_more_or_less_than_there_is(chosen: dict, sentence: str) -> None:
    base = {"a": torch.zeros(6)}
    with pytest.raises(MaskError, match=sentence):
        top(base, base, **chosen)
