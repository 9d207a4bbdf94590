"""Overlaps of masks as tables and as a figure: the figures of masks.overlap, and gaps for none."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sparseopd.errors import RequestError
from sparseopd.masks.overlap import Overlap, TensorOverlap
from sparseopd.report import draw_overlap, overlap_tables
from sparseopd.report.overlap import MOST_PAIRS, describe_overlap, overlap_figure
from sparseopd.report.overlap_table import deviations
from tests.report.reading import printed

NAMES = ["topk-seed-1/mask", "low-magnitude/mask", "random/mask", "principal/mask", "e"]


def rows(layers: int = 3, null: bool = True, empty: int | None = None) -> list[TensorOverlap]:
    """Tensors of 1,000 coordinates: A and B have 100 each, 40 in both, 15 ± 3 expected."""

    def one(layer: int | None, block: str) -> TensorOverlap:
        held = 0 if layer == empty and layer is not None else 1
        overlap = Overlap(
            first=100 * held,
            second=100,
            both=40 * held,
            numel=1000,
            expected=15.0 * held if null else None,
            variance=9.0 * held if null else None,
        )
        return TensorOverlap(f"{block}.{layer}", layer, block, overlap)

    inside = [one(layer, block) for layer in range(layers) for block in ("attention", "ffn")]
    return [one(None, "embedding"), *inside]


def every_pair(count: int, null: bool = True) -> dict[tuple[int, int], list[TensorOverlap]]:
    return {pair: rows(null=null) for pair in combinations(range(count), 2)}


def cells(text: str, first: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first])


def test_one_pair_has_tables_of_its_parts() -> None:
    pair, block, layer = map(printed, overlap_tables(NAMES, {(0, 1): rows()}))
    figures = ["0.2500", "40.0", "40.0", "10.0", "15.0", "+25.00", "+22", "sd"]
    assert cells(pair, "topk-seed-")[2:] == figures
    assert cells(block, "ffn") == ["ffn", "10.0", "10.0", "40.0", "15.0", "+25.00", "+14", "sd"]
    assert [cells(layer, str(number))[0] for number in range(3)] == ["0", "1", "2"]


def test_several_pairs_are_one_table() -> None:
    (table,) = overlap_tables(NAMES, every_pair(4))
    text = printed(table)
    assert table.row_count == 6 and text.count("+22 sd") == 6
    assert "low-" in text and "magnitude/" in text, "names break at hyphens"


def test_without_the_bases_weights_there_is_no_null() -> None:
    text = printed(*overlap_tables(NAMES, {(0, 1): rows(null=False)}))
    assert "Chance" in text and not {"Null", "Margin", "sd"} & set(text.split())
    assert "low-magnitude/mask" in text, "and names have room"


def test_an_empty_mask_has_no_coverage() -> None:
    *_, layer = overlap_tables(NAMES, {(0, 1): rows(empty=1)})
    assert cells(printed(layer), "1") == ["1", "0", "10.0", "–", "–", "–", "–"]


def test_the_widest_figures_fit() -> None:
    wide = Overlap(
        first=10**9, second=10**9, both=1, numel=7 * 10**12, expected=1e9 - 0.5, variance=2.0
    )
    small = Overlap(
        first=10**9, second=10**5, both=9 * 10**4, numel=10**9, expected=10.0, variance=2.0
    )
    parts = [TensorOverlap("x", 1000, "attention", wide), TensorOverlap("x", 1, "ffn", small)]
    names = ["a-very-long-name/of-a-run_without_an_end/mask-seed-3" + "漢" * 9] * 2
    text = printed(*overlap_tables(names, {(0, 1): parts}))
    assert "…" in text and "−100.00" in text and text.count("<−999 sd") == 3
    assert text.count(">999 sd") == 2 and "0.0090" in text


def test_no_layers_and_no_tensors() -> None:
    assert len(overlap_tables(NAMES, {(0, 1): rows(layers=0)})) == 2
    assert "–" in printed(*overlap_tables(NAMES, {(0, 1): []}))


def test_deviations_in_words() -> None:
    values = (12.3, -0.26, 9.96, 999.4, 1e6, -1e6, 0.0)
    assert [deviations(value) for value in values] == [
        "+12 sd",
        "−0.3 sd",
        "+10 sd",
        "+999 sd",
        ">999 sd",
        "<−999 sd",
        "0.0 sd",
    ]


def drawn(figure: Figure, panel: int) -> list[np.ndarray]:
    """The lines of a panel: chance, null, observed."""
    return [np.asarray(line.get_xydata()) for line in figure.axes[panel].lines]


def test_a_pairs_panels_hold_the_three_shares_by_layer_and_by_block() -> None:
    figure = overlap_figure(NAMES, {(0, 1): rows(empty=1)})
    chance, null, found = drawn(figure, 0)
    assert found[:, 0].tolist() == [0, 1, 2] and found[[0, 2], 1] == pytest.approx(40)
    assert np.isnan(found[1, 1]) and np.isnan(null[1, 1]), "a layer without A leaves a gap"
    assert null[0, 1] == pytest.approx(15) and chance[:, 1] == pytest.approx(10)
    blocks = drawn(figure, 1)[2]
    assert blocks[:, 0] == pytest.approx(40) and blocks[:, 1].tolist() == [0, 1, 2]
    labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert labels == ["embedding", "attention", "ffn"]
    assert figure.axes[0].get_ylim()[0] == figure.axes[1].get_xlim()[0] == 0


def test_the_band_spans_two_standard_deviations() -> None:
    (band,) = overlap_figure(NAMES, {(0, 1): rows()}).axes[0].collections
    heights = band.get_paths()[0].get_extents()
    spread = 2 * 18**0.5 / 2  # percent of the 200 coordinates that A has in a layer
    assert (heights.y0, heights.y1) == pytest.approx((15 - spread, 15 + spread))


def test_many_pairs_are_cut_and_say_so() -> None:
    figure = overlap_figure(NAMES, every_pair(5))
    assert len(figure.axes) == 2 * MOST_PAIRS
    assert any("4 more pairs are not drawn." in text.get_text() for text in figure.texts)


def test_missing_pieces_draw() -> None:
    for parts in ([], rows(layers=0), rows(layers=1, null=False), rows(null=False)):
        figure = overlap_figure(NAMES, {(0, 1): parts})
        labels = [text.get_text() for text in figure.legends[0].texts]
        assert ("chance" in labels) and ("|W|-matched null ± 2 sd" in labels) == (
            bool(parts) and parts[0].overlap.expected is not None
        )


def test_overlap_in_words() -> None:
    assert describe_overlap(["a", "b"], {(0, 1): rows()}) == (
        "Share of the first mask that lies in the second: a in b: 40.0 % (null 15.0 %, chance 10.0 %)."
    )


@pytest.mark.parametrize("suffix", [".svg", ".PNG", ".pdf"])
def test_the_figure_is_written(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        draw_overlap(NAMES, every_pair(3), tmp_path / f"{name}{suffix}")
    one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert one == two and len(one) > 5000


def test_another_suffix_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"name a file that ends in \.svg, \.png or \.pdf"):
        draw_overlap(NAMES, {}, tmp_path / "overlap.jpg")
    assert not list(tmp_path.iterdir())
