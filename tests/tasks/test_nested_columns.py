"""Columns are found by name, at any depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks import load_prompts

ROWS = [
    {"input": {"text": f"{n}+1="}, "reward_model": {"style": "rule", "ground_truth": n + 1}}
    for n in range(4)
]


def write(folder: Path, rows: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def load(train: str, **settings: Any):
    return load_prompts(Data(train=train, test=train, **settings), chat=False)


def test_fields_inside_a_column_are_read(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    for train in (write(tmp_path, ROWS), str(tmp_path / "rows.parquet")):
        loaded = load(train, prompt="input.text", answer="reward_model.ground_truth")
        assert loaded.train[2] == {"prompt": "2+1=", "answer": "3"}
        assert loaded.test[:] == loaded.train[:]


def test_fields_are_read_from_json_whose_rows_differ(tmp_path: Path) -> None:
    rows = [
        {"x": {"prompt": "a"}, "y": {"deep": {"gold": "1"}}},
        {"x": {"prompt": "b", "more": [1]}, "y": {"deep": {"gold": 2, "other": True}}},
    ]
    loaded = load(write(tmp_path, rows), prompt="x.prompt", answer="y.deep.gold")
    assert loaded.train[:] == {"prompt": ["a", "b"], "answer": ["1", "2"]}


def test_a_column_whose_own_name_has_the_dots_comes_first(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "a.b": "flat", "a": {"b": "inside"}}]
    assert load(write(tmp_path, rows), answer="a.b").train[0]["answer"] == "flat"


def test_a_field_that_some_row_lacks_counts_as_empty(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "a": {"b": "1"}}, {"prompt": "!", "a": None}, {"prompt": "."}]
    path = write(tmp_path, rows)
    assert load(path, answer="a.b", grader="none").train[:]["answer"] == ["1", "", ""]
    with pytest.raises(DataError, match=r"row 2 of .* has no answer"):
        load(path, answer="a.b")


@pytest.mark.parametrize("several", [False, True])
def test_pictures_inside_a_column_are_read(tmp_path: Path, several: bool) -> None:
    picture = PILImage.new("RGB", (4, 4), (200, 0, 0))
    feature = List(Image()) if several else Image()
    features = Features(
        {"seen": {"shown": feature, "id": Value("int64")}, "prompt": Value("string")}
    )
    cell = {"shown": [picture] if several else picture, "id": 1}
    table = Dataset.from_list([{"seen": cell, "prompt": "?"}], features=features)
    table.to_parquet(tmp_path / "x.parquet")
    data = Data(train=f"{tmp_path}/x.parquet", test=f"{tmp_path}/x.parquet", image="seen.shown")
    (image,) = load_prompts(data, chat=True).train[0]["images"]
    assert image.getpixel((0, 0)) == (200, 0, 0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"prompt": "input.text", "answer": "reward_model.ground_thruth"},
            "no column 'reward_model.ground_thruth' but input, reward_model: "
            "did you mean reward_model.ground_truth",
        ),
        ({"prompt": "inptu.text"}, "did you mean input.text"),
        ({"prompt": "input.text", "answer": "input.text.more"}, "no column 'input.text.more'"),
        ({"prompt": "input.text", "teacher": "zzz"}, "choose one with data.teacher"),
        ({"prompt": "input.text", "privileged": "rewardmodel"}, "did you mean reward_model"),
        ({"prompt": "input"}, "has a prompt of type dict"),
    ],
)
def test_missing_fields_are_told_with_the_nearest(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence) as raised:
        load(write(tmp_path, ROWS), **settings)
    assert "\n" not in str(raised.value)
