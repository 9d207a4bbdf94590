"""Matrices of several updates: cells where they belong, readable for two updates and for twenty."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparseopd.analysis.comparison import Comparisons, Pair, Support
from sparseopd.masks.overlap import Overlap
from sparseopd.report.support_figure import (
    BESIDE,
    _to_one_digit,
    agreement_figure,
    draw_supports,
    overlap_figure,
)


def made(count: int, empty: int | None = None, size: int = 200) -> Comparisons:
    """Supports of 200, 300, 400… of 10,000 coordinates; half of the smaller lies in the larger."""
    sizes = [0 if place == empty else size + 100 * place for place in range(count)]
    labels = [f"run-{place}" for place in range(count)]
    pairs = []
    for one, two in combinations(range(count), 2):
        overlap = Overlap(
            first=sizes[one],
            second=sizes[two],
            both=min(sizes[one], sizes[two]) // 2,
            numel=10_000,
            expected=sizes[one] * sizes[two] / 5_000,
            variance=4.0,
        )
        agreed = {"1e-05": 0.75, "1e-04": 0.95}
        pairs.append(Pair(first=labels[one], second=labels[two], overlap=overlap, agreement=agreed))
    supports = [
        Support(label=label, source=f"/models/{label}", count=one, numel=10_000)
        for label, one in zip(labels, sizes, strict=True)
    ]
    return Comparisons(
        base="base", threshold=1e-5, compared=["bfloat16"], supports=supports, pairs=pairs
    )


def texts(axes: Axes) -> dict[tuple[int, int], str]:
    """The figures of a matrix by row and column."""
    return {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in axes.texts
    }


def matrices(figure: Figure) -> dict[str, list[Axes]]:
    """The axes of both matrices and of their rows of chance, by title; "" for those of chance."""
    found: dict[str, list[Axes]] = {}
    for axes in figure.axes[:-1]:
        found.setdefault(axes.get_title("left"), []).append(axes)
    return found


def test_rows_are_covered_by_columns() -> None:
    found = matrices(overlap_figure(made(3)))
    assert texts(found["observed"][0]) == {
        (0, 1): "50", (0, 2): "50", (1, 0): "33", (1, 2): "50", (2, 0): "25", (2, 1): "38",
    }  # fmt: skip
    assert texts(found["|W|-matched null"][0])[2, 0] == "4"
    assert [texts(axes) for axes in found[""]] == [{(0, 0): "2", (0, 1): "3", (0, 2): "4"}] * 2
    names = [text.get_text() for text in found["observed"][0].get_yticklabels()]
    assert names == ["run-0  1", "run-1  2", "run-2  3"]


def test_an_empty_support_has_dashes_in_its_row() -> None:
    observed = texts(matrices(overlap_figure(made(3, empty=1)))["observed"][0])
    assert observed[1, 0] == observed[1, 2] == "–" and observed[0, 1] == observed[2, 1] == "0"
    assert draw_supports(made(2, empty=0), "k")


def test_agreement_is_the_same_both_ways() -> None:
    found = matrices(agreement_figure(made(2)))
    assert texts(found["|a - b| ≤ 1e-5"][0]) == {(0, 1): "75", (1, 0): "75"}
    assert texts(found["|a - b| ≤ 1e-4"][0]) == {(0, 1): "95", (1, 0): "95"}
    assert "" not in found


@pytest.mark.parametrize("count", [2, BESIDE, BESIDE + 1, 12])
def test_nothing_is_cut_off_or_covered(count: int) -> None:
    for figure in (overlap_figure(made(count)), agreement_figure(made(count))):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        width, height = figure.bbox.size
        boxes = []
        for axes in figure.axes:
            box = axes.get_tightbbox(renderer)
            assert box is not None and box.x0 >= 0 and box.y0 >= 0
            assert box.x1 <= width + 1 and box.y1 <= height + 1
            boxes.append(axes.get_window_extent(renderer))
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        for axes in figure.axes[:-1]:
            cell = axes.get_window_extent(renderer).width / count
            assert all(text.get_window_extent(renderer).width < cell for text in axes.texts)
            assert axes.texts, "cells carry their figures"


def test_long_names_are_cut_in_the_middle() -> None:
    one = made(2)
    name = "a-very-long-name-of-a-run-with-seed-3"
    renamed = Comparisons(
        **{
            **vars(one),
            "supports": [Support(**{**vars(s), "label": s.label + name}) for s in one.supports],
            "pairs": [
                Pair(**{**vars(p), "first": p.first + name, "second": p.second + name})
                for p in one.pairs
            ],
        }
    )
    figure = overlap_figure(renamed)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert all(len(label) <= 20 and "…" in label for label in labels)


def test_words_tell_every_pair_or_the_extremes_of_many() -> None:
    overlap, agreed = draw_supports(made(2), "k")
    label = ElementTree.fromstring(overlap.svg).attrib["aria-label"]
    assert "run-0 in run-1: 50.0 % (null 6.00 %, chance 3.00 %); run-1 in run-0: 33.3 %" in label
    assert "run-0 and run-1: 75.0 %, 95.0 %" in agreed.svg
    assert "{|Δ| > 1e-05}, compared in bfloat16" in overlap.caption
    many = ElementTree.fromstring(draw_supports(made(12), "k")[0].svg).attrib["aria-label"]
    assert "132 pairs, from run-11 in run-0: 7.69 %" in many and len(many) < 300


def test_the_scale_ends_above_all_shares() -> None:
    shares = (0.0, 0.001, 0.0011, 0.3, 0.31, 0.95, 1.0)
    ends = [_to_one_digit(share) for share in shares]
    assert ends == pytest.approx([1, 0.001, 0.002, 0.3, 0.4, 1, 1])


def test_ids_are_the_pages_own() -> None:
    drawings = draw_supports(made(3), "supports")
    assert [one.title for one in drawings] == [
        "How far the supports overlap",
        "How far the checkpoints agree",
    ]
    identities = [
        element.attrib["id"]
        for drawing in drawings
        for element in ElementTree.fromstring(drawing.svg).iter()
        if "id" in element.attrib
    ]
    assert len(set(identities)) == len(identities)
    assert all(one.startswith("supports-") for one in identities)
