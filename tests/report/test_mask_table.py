"""The tables of a mask: every density of every layer, within 80 columns, with and without colour."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from sparseopd.report import mask_tables
from sparseopd.report.words import percent
from tests.report.builders import layout
from tests.report.reading import printed

QWEN = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm"),
)
GEMMA = (*QWEN, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def model(modules: tuple[str, ...], layers: int, density: float = 0.123) -> list[dict]:
    """A layout in which every cell has the same density."""
    numel = 10**9
    cells = [(layer, module) for layer in range(layers) for module in modules]
    cells += [(None, module) for module in ("lm_head", "embed_tokens", "norm")]
    return [
        {"layer": layer, "module": module, "count": round(numel * density), "numel": numel}
        for layer, module in cells
    ]


def lines(text: str) -> dict[str, list[str]]:
    """Words of each line by its first, the last line of a name winning."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


@pytest.mark.parametrize("modules", [QWEN, GEMMA])
def test_a_language_model_is_one_table_with_every_layer(modules: tuple[str, ...]) -> None:
    tables = mask_tables(model(modules, layers=60))
    assert len(tables) == 2
    rows = lines(printed(*tables))
    assert all(rows[str(layer)] == ["12.3"] * len(modules) for layer in range(60))


def test_modules_stand_in_the_order_a_model_computes_them() -> None:
    text = printed(*mask_tables(model(tuple(sorted(QWEN)), layers=1)))
    assert lines(text)["layer"] == [*["proj"] * 4, *["norm"] * 2, *["proj"] * 3, *["norm"] * 2]
    post, attn = text.splitlines()[1:3]
    assert post.split() == ["post"]
    assert " ".join(attn.split()) == "q k v o q k gate up down input attn"
    rest = list(lines(text))
    assert rest[-4:] == ["embed_tokens", "norm", "lm_head", "all"]


def test_the_last_table_sums_what_lies_outside_layers_and_everything() -> None:
    text = printed(mask_tables(layout(0.1, 0.0, layers=36, vision=2))[-1])
    rows = lines(text)
    assert rows["lm_head"] == ["16,384", "1,638", "10.0"]
    assert rows["all"] == ["4,980,736", "497,952", "10.0"]


def test_vision_layers_have_a_table_of_their_own() -> None:
    tables = mask_tables(layout(0.1, 0.0, layers=3, vision=2))
    titles = [str(table.title) for table in tables]
    assert titles == ["Text layers, % in the mask", "Vision layers, % in the mask", "None"]
    assert [table.row_count for table in tables] == [3, 2, 5]
    assert "vision" not in printed(tables[1])


def test_many_modules_fill_several_tables_of_like_width() -> None:
    modules = tuple(f"some_module_{number}" for number in range(20))
    *tables, _ = mask_tables(model(modules, layers=2))
    assert len(tables) == 2 and [len(table.columns) for table in tables] == [11, 11]
    assert str(tables[1].title).endswith("continued")
    assert printed(*tables).count("12.3") == 40


def test_a_layer_that_lacks_a_module_has_a_gap() -> None:
    rows = model(("q_proj", "up_proj"), 2)[:-1]
    del rows[0]
    assert lines(printed(*mask_tables(rows)))["0"] == ["12.3"]


def test_thin_masks_keep_two_digits() -> None:
    for density, text in ((1e-6, "1e-4"), (1.2e-5, "0.0012"), (0.00025, "0.025"), (1.0, "100")):
        assert text in printed(*mask_tables(model(QWEN, 2, density)))
    assert [percent(share) for share in (0, 1e-7, 0.00996, 0.0999999, 0.99999)] == [
        "0",
        "1e-5",
        "1.0",
        "10.0",
        "100",
    ]


def colored(rows: list[dict]) -> str:
    """The tables as a terminal with 24-bit colours receives them."""
    console = Console(
        width=80, file=io.StringIO(), color_system="truecolor", force_terminal=True, no_color=False
    )
    for table in mask_tables(rows):
        console.print(table)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_grounds_run_from_dark_blue_to_yellow() -> None:
    rows = [
        {"layer": 0, "module": module, "count": count, "numel": 100}
        for module, count in (("q_proj", 0), ("k_proj", 10), ("v_proj", 20))
    ]
    found = re.findall(r"38;2;([\d;]+);48;2;([\d;]+)m +([\d.]+)", colored(rows))
    assert found == [
        ("255;255;255", "8;51;112", "0"),
        ("0;0;0", "136;133;120", "10.0"),
        ("0;0;0", "254;232;56", "20.0"),
    ]


def test_a_few_whole_norms_do_not_set_the_scale() -> None:
    rows = [
        {"layer": 0, "module": "norm", "count": 10, "numel": 10},
        {"layer": 0, "module": "q_proj", "count": 200, "numel": 2000},
    ]
    assert colored(rows).count("48;2;254;232;56m") == 2


def test_nothing_and_empty_tensors() -> None:
    assert lines(printed(*mask_tables([])))["all"] == ["0", "0", "–"]
    empty = [{"layer": None, "module": "x", "count": 0, "numel": 0}]
    assert lines(printed(*mask_tables(empty)))["x"] == ["0", "0", "–"]
    thin = [{"layer": 0, "module": "x", "count": 0, "numel": 4}]
    assert "0" in lines(printed(*mask_tables(thin)))


def test_names_are_shown_as_they_are() -> None:
    hostile = "[red]a_" + "漢" * 30 + "_\x1b[31m_" + "b" * 90
    rows = [{"layer": layer, "module": hostile, "count": 1, "numel": 9} for layer in (0, None)]
    text = printed(*mask_tables(rows))
    assert "[red]a" in text and "\x1b" not in text and text.count("11.1") == 3
