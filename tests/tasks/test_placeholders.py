"""Marks of pictures leave the text, since the processor places the pictures itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks import load_prompts
from sparseopd.tasks.placeholders import without_placeholders


def tidied(text: str, pictures: int = 1) -> str:
    (turn,) = without_placeholders([{"role": "user", "content": text}], pictures, "row 1")
    return turn["content"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<image>Find x.", "Find x."),
        ("<image>\nFind x.", "Find x."),
        ("Find x.\n\n<image>", "Find x."),
        ("Look at <image> and add.", "Look at and add."),
        ("Above\n\n<image>\nbelow", "Above\n\nbelow"),
        ("left<image>right", "left right"),
        ("<image>", ""),
        ("no mark", "no mark"),
        ("  kept <images>  ", "  kept <images>  "),
    ],
)
def test_the_text_closes_over_a_mark(text: str, left: str) -> None:
    assert tidied(text) == left


def test_several_marks_in_one_prompt_and_over_turns() -> None:
    assert tidied("<image> <image>\nWhich is larger?", 2) == "Which is larger?"
    turns = [{"role": role, "content": f"<image>{role}"} for role in ("user", "assistant", "user")]
    left = without_placeholders(turns, 3, "row 1")
    assert [turn["content"] for turn in left] == ["user", "assistant", "user"]
    assert turns[0]["content"] == "<image>user"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def load(folder: Path, rows: list[dict[str, Any]], **settings: Any):
    path = folder / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return load_prompts(Data(train=str(path), test=str(path), **settings), chat=True).train


def test_rows_with_pictures_lose_their_marks(folder: Path) -> None:
    rows = [
        {"problem": "<image>Find x.", "images": ["a.png"], "solution": "4"},
        {"problem": "<image><image>\nSame?", "images": ["a.png", "b.png"], "solution": "No"},
        {"problem": "What is an <image> tag?", "images": [], "solution": "HTML"},
        {"problem": "Find y.", "images": ["b.png"], "solution": "5"},
    ]
    loaded = load(folder, rows, prompt="problem", privileged="solution")
    said = [turns[0]["content"] for turns in loaded["prompt"]]
    assert said == ["Find x.", "Same?", "What is an <image> tag?", "Find y."]
    seen = [turns[0]["content"].split("\n")[0] for turns in loaded["teacher_prompt"]]
    assert seen == said
    assert [len(images) for images in loaded["images"]] == [1, 2, 0, 1]


def test_without_an_image_column_the_text_is_as_it_was(folder: Path) -> None:
    loaded = load(folder, [{"prompt": "<image> tags in HTML"}])
    assert loaded[0]["prompt"][0]["content"] == "<image> tags in HTML"


@pytest.mark.parametrize(
    ("text", "images", "sentence"),
    [
        (
            "<image><image>?",
            ["a.png"],
            "row 2 of .* has 2 <image> marks in its prompt and 1 image:",
        ),
        ("<image>?", ["a.png", "b.png"], "row 2 of .* has 1 <image> mark in .* and 2 images:"),
    ],
)
def test_marks_and_pictures_that_do_not_match(
    folder: Path, text: str, images: list[str], sentence: str
) -> None:
    rows = [{"prompt": "<image>?", "images": ["a.png"]}, {"prompt": text, "images": images}]
    with pytest.raises(DataError, match=sentence) as raised:
        load(folder, rows)
    assert "\n" not in str(raised.value)
