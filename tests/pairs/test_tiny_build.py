"""The bundled tiny pairs and the command that rebuilds them: right answers, no leak, same bytes."""

import io
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sparseopd.errors import RequestError
from sparseopd.pairs import tiny
from sparseopd.recipe import find, load

ARITHMETIC = [name for name in tiny.BUNDLED if "arithmetic" in name]
HINT, TEACHERS = "tiny-arithmetic-hint", "tiny-arithmetic-two-teachers"
MODELS = dict.fromkeys(tiny.BUNDLED, ("student", "teacher"))
MODELS |= {HINT: ("student",), TEACHERS: ("sum", "difference")}
MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep transformers from looking for the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def rows(path: Path) -> list[dict[str, str]]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digit_rows(split: str) -> Iterator[tuple[bytes, str, str]]:
    """Yield the PNG bytes, question and answer of each bundled digits row."""
    from pyarrow import parquet

    table = parquet.read_table(tiny.folder("tiny-digits") / f"{split}.parquet")
    for row in table.to_pylist():
        yield row["image"]["bytes"], row["prompt"], row["answer"]


def build(name: str, out: Path, seed: int = 0) -> Path:
    """Run the build command for a handful of steps."""
    from sparseopd.pairs.tiny.build import main

    main([name, "--seed", str(seed), "-o", str(out), "--steps-scale", "0.001"])
    return out


def fingerprint(out: Path) -> list[str]:
    """Hash the weights of every model in `out`."""
    return [sha256(file.read_bytes()).hexdigest() for file in sorted(out.glob("*/*.safetensors"))]


def right(model_folder: Path, asked: list[dict[str, str]], template: str = "{prompt}") -> float:
    """Return the share of rows that a bundled model answers right, always taking its likeliest token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sparseopd.pairs.tiny.supervised import render

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    texts = [
        render(tokenizer, template.format(prompt=row["prompt"], privileged=row.get("solution")))
        for row in asked
    ]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    written = model.generate(**encoded, max_new_tokens=6, do_sample=False)
    replies = tokenizer.batch_decode(
        written[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return sum(r == row["answer"] for r, row in zip(replies, asked, strict=True)) / len(asked)


def test_unknown_pairs_are_a_request_error() -> None:
    with pytest.raises(RequestError, match=r"tiny-poetry.*tiny-arithmetic"):
        tiny.folder("tiny-poetry")


@pytest.mark.parametrize("name", tiny.BUNDLED)
def test_the_build_writes_a_loadable_pair_and_repeats_its_bytes(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    loader: Any = AutoModelForImageTextToText if name == "tiny-digits" else AutoModelForCausalLM
    first = build(name, tmp_path / "first")
    for role in MODELS[name]:
        assert {file.name for file in (first / role).iterdir()} >= MODEL_FILES
        model, info = loader.from_pretrained(first / role, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert model.dtype == torch.bfloat16
        assert AutoProcessor.from_pretrained(first / role).chat_template
    same, other = build(name, tmp_path / "same"), build(name, tmp_path / "other", seed=1)
    assert fingerprint(same) == fingerprint(first)
    assert len(fingerprint(same)) == len(MODELS[name])
    assert not set(fingerprint(other)) & set(fingerprint(first))


@pytest.mark.parametrize("name", tiny.BUNDLED)
def test_bundled_models_are_complete_and_small(name: str) -> None:
    for role in MODELS[name]:
        folder = tiny.folder(name) / role
        assert {file.name for file in folder.iterdir()} >= MODEL_FILES
        assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    files = [file for file in tiny.folder(name).rglob("*") if file.is_file()]
    assert max(file.stat().st_size for file in files) < 5_000_000


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_answers_are_right(name: str) -> None:
    for split in ("train", "test"):
        for row in rows(tiny.folder(name) / f"{split}.jsonl"):
            left, right = int(row["prompt"][:3]), int(row["prompt"][4:7])
            result = left + right if row["prompt"][3] == "+" else left - right
            assert int(row["answer"][::-1]) == result
            assert len(row["answer"]) == (4 if row["prompt"][3] == "+" else 3)


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_prompts_do_not_leak(name: str) -> None:
    train = [row["prompt"] for row in rows(tiny.folder(name) / "train.jsonl")]
    test = [row["prompt"] for row in rows(tiny.folder(name) / "test.jsonl")]
    assert len(test) >= 300
    assert len(set(train + test)) == len(train + test)


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_build_writes_the_bundled_prompts(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    for file in ("train.jsonl", "test.jsonl"):
        assert (built / file).read_bytes() == (tiny.folder(name) / file).read_bytes()


def test_a_hint_is_the_result_as_it_is_usually_written() -> None:
    for row in rows(tiny.folder(HINT) / "train.jsonl"):
        assert row["solution"] == row["answer"][::-1]


def test_the_hint_recipe_shows_solutions_as_the_model_was_taught_to_read_them() -> None:
    from sparseopd.pairs.tiny.arithmetic_lessons import HINTED

    recipe = load(find(HINT))
    assert recipe.data.privileged_template == HINTED
    assert recipe.data.privileged == "solution"
    assert recipe.teacher is not None and recipe.teacher.path == recipe.student.path


def test_the_hint_model_needs_the_solution_for_borrows_alone() -> None:
    from sparseopd.pairs.tiny.arithmetic import parse
    from sparseopd.pairs.tiny.arithmetic_lessons import HINTED

    student, test = tiny.folder(HINT) / "student", rows(tiny.folder(HINT) / "test.jsonl")
    borrows = [row for row in test if parse(row["prompt"]).borrows][:64]
    others = [row for row in test if not parse(row["prompt"]).borrows][:64]
    assert right(student, borrows) < 0.4
    assert right(student, others) > 0.95
    assert right(student, borrows, HINTED) > 0.95


@pytest.mark.parametrize("own", MODELS[TEACHERS])
def test_each_of_two_teachers_knows_its_own_operation_alone(own: str) -> None:
    folder = tiny.folder(TEACHERS)
    test = rows(folder / "test.jsonl")
    assert right(folder / own, [row for row in test if row["skill"] == own][:64]) > 0.95
    assert right(folder / own, [row for row in test if row["skill"] != own][:64]) == 0


def test_every_prompt_of_two_teachers_names_the_one_that_knows_it() -> None:
    recipe, train = load(find(TEACHERS)), rows(tiny.folder(TEACHERS) / "train.jsonl")
    assert recipe.data.teacher == "skill"
    assert {row["skill"] for row in train} == set(recipe.teachers) == set(MODELS[TEACHERS])
    assert all((row["skill"] == "sum") == ("+" in row["prompt"]) for row in train)
    differences = sum(row["skill"] == "difference" for row in train) / len(train)
    assert 0.28 < differences < 0.32


def test_each_digit_has_one_consistent_label() -> None:
    readings: dict[bytes, set[tuple[int, bool]]] = {}
    for png, prompt, answer in [*digit_rows("train"), *digit_rows("test")]:
        digits = {
            "which digit is it?": {str(d): d for d in range(10)},
            "what is it plus three?": {str(d + 3): d for d in range(10)},
            "is it even or odd?": {"even": 0, "odd": 1},
        }[prompt]
        readings.setdefault(png, set()).add((digits[answer], "even" in prompt))
    for reading in readings.values():
        labels = {value for value, is_parity in reading if not is_parity}
        parities = {value for value, is_parity in reading if is_parity}
        assert len(labels) <= 1
        assert len(parities | {label % 2 for label in labels}) == 1


def test_digit_images_are_disjoint_and_eight_pixels_wide() -> None:
    from PIL import Image

    train = {png for png, _, _ in digit_rows("train")}
    test = [png for png, _, _ in digit_rows("test")]
    assert not train & set(test)
    assert len(set(test)) == len(test) >= 300
    assert Image.open(io.BytesIO(test[0])).size == (8, 8)


def test_the_digits_carry_their_license() -> None:
    text = (tiny.folder("tiny-digits") / "LICENSE-optdigits.txt").read_text(encoding="utf-8")
    assert "Alpaydin" in text and "CC BY 4.0" in text
