"""Every accepted source ends in the same canonical columns; every bad one in a sentence."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from sparseopd.errors import DataError, RequestError
from sparseopd.recipe import Data
from sparseopd.tasks import load_prompts

USER = {"role": "user", "content": "2+3="}
SYSTEM = {"role": "system", "content": "Be brief."}
REPLY = {"role": "assistant", "content": "5"}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


@pytest.fixture
def sums(tmp_path: Path) -> str:
    rows = [{"prompt": f"{n}+1=", "answer": n + 1} for n in range(40)]
    return write(tmp_path / "sums.jsonl", rows)


def load(train: str, *, chat: bool = True, **settings: Any):
    settings.setdefault("test", train)
    return load_prompts(Data(train=train, **settings), chat=chat)


def test_text_becomes_messages_for_chat_models_only(sums: str) -> None:
    chat, plain = load(sums, system="Add."), load(sums, chat=False)
    assert chat.train[3]["prompt"] == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "3+1="},
    ]
    assert plain.train[3] == {"prompt": "3+1=", "answer": "4"}
    assert plain.train.column_names == ["prompt", "answer"]
    assert plain.grader_name == "exact" and plain.grader is not None
    assert plain.grader("4", plain.train[3]["answer"])


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"messages": [SYSTEM, USER, REPLY]}, [SYSTEM, USER], "5"),
        ({"messages": [USER, REPLY], "answer": "five"}, [USER], "five"),
        ({"prompt": [USER, REPLY, USER]}, [USER, REPLY, USER], None),
        ({"messages": [USER], "prompt": "unused"}, [USER], None),
        ({"prompt": "2+3=", "answer": 5.0}, [USER], "5"),
        ({"prompt": "2+3=", "answer": "2020-01-01"}, [USER], "2020-01-01"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "text", "text": "2+3="}]}]},
            [USER],
            None,
        ),
    ],
)
def test_shapes_of_rows(tmp_path: Path, row: dict, prompt: list, answer: str | None) -> None:
    loaded = load(write(tmp_path / "x.jsonl", [row]))
    expected = {"prompt": prompt} if answer is None else {"prompt": prompt, "answer": answer}
    assert loaded.train[0] == expected
    assert loaded.grader_name == ("none" if answer is None else "exact")


def test_rows_may_differ_in_shape(tmp_path: Path) -> None:
    """A later row's columns and block contents are not lost to the first row's."""
    rows = [
        {"prompt": [USER]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "answer": "y"},
    ]
    loaded = load(write(tmp_path / "x.jsonl", rows), grader="none")
    assert loaded.train[:]["answer"] == ["", "y"]
    assert loaded.train[1]["prompt"] == [{"role": "user", "content": "x"}]


def test_every_kind_of_file_reads_alike(tmp_path: Path) -> None:
    rows = [{"question": f"q\u2028{n}", "label": f"00{n}"} for n in range(5)]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "lines.jsonl").write_text(lines, encoding="utf-8")
    table = Dataset.from_list(rows)
    table.to_parquet(tmp_path / "table.parquet")
    table.to_csv(tmp_path / "table.csv")
    table.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "splits")
    (tmp_path / "folder").mkdir()
    table.to_parquet(tmp_path / "folder" / "train.parquet")
    table.to_parquet(tmp_path / "folder" / "test.parquet")
    names = ("list.json", "lines.jsonl", "table.parquet", "table.csv", "saved", "splits", "folder")
    loaded = [
        load(str(tmp_path / name), prompt="question", answer="label").train[:] for name in names
    ]
    assert loaded[0]["answer"] == [row["label"] for row in rows]
    assert [item["content"] for (item,) in loaded[0]["prompt"]] == [row["question"] for row in rows]
    assert all(other == loaded[0] for other in loaded[1:])


def test_loading_leaves_the_users_folder_and_settings_alone(tmp_path: Path) -> None:
    table = Dataset.from_list([{"prompt": "x", "answer": "y"}] * 3)
    table.save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    load(str(tmp_path / "saved"))
    assert sorted(tmp_path.rglob("*")) == before
    assert datasets.is_caching_enabled()


def test_holding_out(sums: str) -> None:
    first = load(sums, test=None, holdout=10, chat=False)
    again = load(sums, test=None, holdout=10, chat=False)
    other = load(sums, test=None, holdout=10, chat=False, holdout_seed=1)
    assert first.test[:] == again.test[:]
    assert first.test[:] != other.test[:]
    assert first.held_out == len(first.test) == 10
    assert set(first.train["prompt"]) | set(first.test["prompt"]) == {f"{n}+1=" for n in range(40)}
    assert not set(first.train["prompt"]) & set(first.test["prompt"])
    answers = [int(answer) for answer in first.train["answer"]]
    assert answers == sorted(answers)  # the file's order


def test_a_small_data_set_holds_out_a_fifth(sums: str) -> None:
    loaded = load(sums, test=None, holdout=30)
    assert (len(loaded.train), len(loaded.test), loaded.held_out) == (32, 8, 8)


def test_the_limit_shortens_train_and_keeps_the_test_set(sums: str) -> None:
    whole = load(sums, test=None, holdout=10)
    short = load(sums, test=None, holdout=10, limit=5)
    assert short.train[:] == whole.train[:5]
    assert short.test[:] == whole.test[:]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Image.Image]:
    images = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (10, 200)]
    for place, image in enumerate(images):
        image.save(tmp_path / f"{place}.png")
    return images


def test_images_of_every_form(tmp_path: Path, pictures: list[Image.Image]) -> None:
    content = (tmp_path / "1.png").read_bytes()
    paths = [{"prompt": "?", "image": "0.png"}, {"prompt": "?", "image": "1.png"}]
    write(tmp_path / "paths.jsonl", paths)
    write(tmp_path / "lists.jsonl", [{"prompt": "?", "images": [row["image"]]} for row in paths])
    first = {"bytes": (tmp_path / "0.png").read_bytes(), "path": "gone.png"}
    raw = [{"prompt": "?", "images": [first]}, {"prompt": "?", "images": [{"bytes": content}]}]
    Dataset.from_list(raw).to_parquet(tmp_path / "raw.parquet")
    decoded = Dataset.from_dict({"prompt": ["?", "?"], "image": pictures})
    decoded.to_parquet(tmp_path / "decoded.parquet")
    for name in ("paths.jsonl", "lists.jsonl", "raw.parquet", "decoded.parquet"):
        loaded = load(str(tmp_path / name))
        assert loaded.has_images and loaded.train.column_names == ["prompt", "images"]
        got = [image.getpixel((0, 0)) for (image,) in loaded.train["images"]]
        assert got == [(10, 0, 0), (200, 0, 0)], name


def test_rows_with_no_and_several_images(tmp_path: Path, pictures: list) -> None:
    rows = [{"prompt": "?", "images": None}, {"prompt": "?", "images": ["0.png", "1.png"]}]
    loaded = load(write(tmp_path / "x.jsonl", rows))
    assert [len(cell) for cell in loaded.train["images"]] == [0, 2]


@pytest.mark.parametrize(
    ("rows", "settings", "sentence"),
    [
        ([{"prompt": "a"}, {"prompt": " "}], {}, "row 2 of .*x.jsonl has an empty prompt"),
        ([{"messages": [REPLY]}], {}, "row 1 of .* has no user message"),
        ([{"messages": [{"role": "user", "content": ""}]}], {}, "row 1 .* empty prompt"),
        ([{"messages": [{"role": "bot", "content": ""}]}], {}, "role 'bot': the roles are"),
        ([{"messages": [{"from": "user"}]}], {}, 'message without "role" and "content"'),
        ([{"prompt": {"x": 1}}], {}, "has a prompt of type dict"),
        ([{"question": "a"}], {}, "no column messages or prompt but question: name"),
        (
            [{"question": "a"}],
            {"prompt": "questoin"},
            "no column 'questoin' but question: did you mean question",
        ),
        ([{"prompt": "a"}], {"answer": "gold"}, "choose one with data.answer"),
        ([{"prompt": "a"}], {"grader": "exact"}, "row 1 .* no answer, which the grader exact"),
        (
            [{"prompt": "a", "answer": "1"}, {"prompt": "b"}],
            {},
            "row 2 .* no answer, which the grader exact needs",
        ),
        ([{"prompt": "a", "answer": [1]}], {}, "row 1 .* has an answer of type list"),
        ([{"prompt": "a"}], {"grader": "exakt"}, "did you mean exact"),
        ([{"messages": [USER]}], {"system": "x"}, "is a conversation, which data.system"),
        ([{"messages": [USER]}], {"chat": False}, "the model has no chat template"),
        ([{"prompt": "a", "image": "no.png"}], {}, "row 1 .*no.png: No such file"),
        ([{"prompt": "a", "image": "x.jsonl"}], {}, "row 1 .* no picture: .*x.jsonl"),
        ([{"prompt": "a", "image": 3}], {}, "row 1 .* has an image of type int"),
        ([{"prompt": "a", "image": "x"}], {"chat": False}, "has images .* no chat template"),
        ([], {}, "x.jsonl is empty"),
        ([3], {}, "row 1 .* is of type int, not an object"),
        ([{"prompt": "a"}], {"test": None}, "has a single row"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list, settings: dict, sentence: str) -> None:
    path = write(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=sentence) as raised:
        load(path, **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2 of .*x.jsonl is not valid JSON"),
        ("x.json", b"[1, 2", "x.json is not valid JSON"),
        ("x.json", b"\xff\xfe", "not UTF-8"),
        ("x.csv", b"prompt\na,b\n", "row 1 .* more cells than the header"),
        ("x.parquet", b"PAR1 no", "cannot open the data set .*x.parquet"),
        ("x.txt", b"hello", "of no known kind"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as raised:
        load(str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_missing_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"there is no data file or folder .*gone.jsonl"):
        load(str(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="cannot open the data set someone/data:conf: "):
        load("someone/data:conf")
    with pytest.raises(RequestError, match="no bundled pair"):
        load("bundled:tiny/train.jsonl")
    DatasetDict({"train": Dataset.from_list([{"prompt": "x"}])}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="no split 'test': it has train"):
        load(str(tmp_path / "d"))


def test_a_hub_id_is_opened_by_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(path: str, name: str | None = None, *, split: str) -> Dataset:
        calls.append((path, name, split))
        return Dataset.from_list([{"prompt": "x"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load("someone/data:main", train_split="a", test_split="b")
    load("someone/data")
    assert calls[:3] == [
        ("someone/data", "main", "a"),
        ("someone/data", "main", "b"),
        ("someone/data", None, "train"),
    ]
