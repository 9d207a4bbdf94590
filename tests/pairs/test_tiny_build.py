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

ARITHMETIC = [name for name in tiny.BUNDLED if "arithmetic" in name]
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
    """Hash the weights of the student and of the teacher in `out`."""
    return [
        sha256((out / role / "model.safetensors").read_bytes()).hexdigest()
        for role in ("student", "teacher")
    ]


def test_unknown_pairs_are_a_request_error() -> None:
    with pytest.raises(RequestError, match=r"tiny-poetry.*tiny-arithmetic"):
        tiny.folder("tiny-poetry")


@pytest.mark.parametrize("name", tiny.BUNDLED)
def test_the_build_writes_a_loadable_pair_and_repeats_its_bytes(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    loader: Any = AutoModelForImageTextToText if name == "tiny-digits" else AutoModelForCausalLM
    first = build(name, tmp_path / "first")
    for role in ("student", "teacher"):
        assert {file.name for file in (first / role).iterdir()} >= MODEL_FILES
        model, info = loader.from_pretrained(first / role, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert model.dtype == torch.bfloat16
        assert AutoProcessor.from_pretrained(first / role).chat_template
    same, other = build(name, tmp_path / "same"), build(name, tmp_path / "other", seed=1)
    assert fingerprint(same) == fingerprint(first)
    assert not set(fingerprint(other)) & set(fingerprint(first))


@pytest.mark.parametrize("name", tiny.BUNDLED)
def test_bundled_models_are_complete_and_small(name: str) -> None:
    for role in ("student", "teacher"):
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
