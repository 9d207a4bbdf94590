"""A mask's heat map as a file: readable, the same each time, refused under a foreign name."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from sparseopd.errors import RequestError, RunFolderError
from sparseopd.report import draw_mask
from sparseopd.report.heatmap import draw_layout
from tests.report.builders import layout


def test_svg_holds_the_title_and_every_module(tmp_path: Path) -> None:
    path = tmp_path / "mask.svg"
    draw_mask(layout(0.1, 1.0, layers=28), path, "found/$mask$ & <co>: 10 %")
    text = " ".join(element.text or "" for element in ElementTree.parse(path).iter())
    for part in ("found/$mask$ & <co>: 10 %", "down_proj", "lm_head"):
        assert part in text
    assert "fill: #ffffff" in path.read_text(encoding="utf-8"), "the ground is white"


def test_png_is_an_image_on_white(tmp_path: Path) -> None:
    draw_mask(layout(0.1, 1.0, layers=60, vision=12), tmp_path / "mask.png", "m" * 200)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.width == 1000 and image.height > 1200
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_same_mask_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        draw_mask(layout(0.1, 1.0), tmp_path / f"{name}{suffix}", "m")
    one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert one == two


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "mask.svg.gz"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"\.svg, \.png or \.pdf"):
        draw_mask(layout(0.1, 1.0), tmp_path / name, "m")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot write"):
        draw_mask(layout(0.1, 1.0), tmp_path / "missing" / "mask.svg", "m")


def test_what_most_weights_keep_to_tops_the_scale_unless_told() -> None:
    def top(rows: list[dict], most: float | None = None) -> str:
        return draw_layout(rows, most).axes[-1].get_xticklabels()[-1].get_text()

    rows = layout(0.1, 0.0)
    assert (top(rows), top(rows, 0.5)) == ("10 %", "50 %")
    norm = {"layer": None, "module": "norm", "count": 1, "numel": 1}
    assert top([*rows, norm]) == "≥ 10 %"


def test_nothing_draws(tmp_path: Path) -> None:
    draw_mask([], tmp_path / "mask.svg", "")
    draw_mask(
        [{"layer": 0, "module": "x", "count": 0, "numel": 0}], tmp_path / "empty.svg", "\ud800\x1b"
    )
    whole = [{"layer": None, "module": "x", "count": 4, "numel": 4}]
    draw_mask(whole, tmp_path / "whole.svg", "whole")
    assert ">100<" in (tmp_path / "whole.svg").read_text(encoding="utf-8")
