"""Public benchmarks as a user runs them, offline: tasks of one's own, and an image set with answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value, load_dataset

from sparseopd.artifacts import Scores
from sparseopd.benchmark_scores import read_benchmarks
from sparseopd.pairs import load_model, load_processor, tiny
from sparseopd.recipe import Model
from tests.integration.conftest import SHORT, Command

STUDENT = "bundled:tiny-arithmetic/student"
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
{more}
metric_list:
  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}
"""
SUMS = """doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|end|>"], max_gen_toks: 6, do_sample: false}"""
CHOICE = """doc_to_choice: choices
doc_to_target: gold
target_delimiter: "" """


def rows() -> list[dict]:
    """Sums of which every third has a wrong answer, so that not all are right."""
    lines = (tiny.folder("tiny-arithmetic") / "test.jsonl").read_text().splitlines()[:12]
    found = []
    for number, line in enumerate(lines):
        row = json.loads(line)
        wrong = "".join(reversed(row["answer"])) + "1"
        answer = wrong if number % 3 == 0 else row["answer"]
        found.append({**row, "answer": answer, "choices": [wrong, row["answer"]], "gold": 0})
    return found


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows())) + "\n")
    for name, kind, metric, more in (
        ("tiny_sums", "generate_until", "exact_match", SUMS),
        ("tiny_choice", "multiple_choice", "acc", CHOICE),
    ):
        text = TASK.format(
            name=name,
            data=folder / "sums.jsonl",
            cache=tmp_path / "cache",
            kind=kind,
            metric=metric,
            more=more,
        )
        (folder / f"{name}.yaml").write_text(text)
    return folder


@torch.no_grad()
def counted() -> float:
    """How many sums the student gets right by greedy decoding, counted without the harness."""
    model, tokenizer = load_model(Model(path=STUDENT)), load_processor(Model(path=STUDENT))
    right = 0
    for row in rows():
        text = f"<|user|>{row['prompt']}<|end|><|assistant|>"
        ids = tokenizer(text, return_tensors="pt")["input_ids"]  # type: ignore[operator]
        written = model.generate(ids, max_new_tokens=6, do_sample=False)  # type: ignore[operator]
        said = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        right += said == row["answer"]
    return right / len(rows())


def test_models_without_a_recipe(tasks: Path, tmp_path: Path, sparseopd: Command) -> None:
    words = ("--lm-eval", "tiny_sums,tiny_choice", "--lm-eval-path", tasks, "device=cpu")
    out = tmp_path / "out"
    ran = sparseopd("evaluate", STUDENT, "bundled:tiny-arithmetic/teacher", *words, "-o", out)
    assert ran.code == 0, ran.err
    assert "tiny_sums exact_match" in ran.err and max(map(len, ran.err.splitlines()[-9:-2])) <= 80
    found = {(row.task, row.arm): row for row in read_benchmarks(Scores.load(out / "scores.json"))}
    own = found["tiny_sums", "student"]
    assert own.value == counted() and 0 < own.value < 1 and own.n == 12
    assert own.difference is None and own.stderr is not None
    other = found["tiny_sums", "teacher"]
    assert other.reference == "student" and other.difference is not None
    assert other.difference.mean == pytest.approx(other.value - own.value)
    assert found["tiny_choice", "student"].metric == "acc"
    assert "Public benchmarks" in (out / "report.html").read_text()


def test_a_limit_beside_a_recipe(tasks: Path, tmp_path: Path, sparseopd: Command) -> None:
    words = ("--lm-eval", "tiny_sums", "--lm-eval-path", tasks, "--lm-eval-limit", 3)
    out = tmp_path / "out"
    recipe = ("--recipe", "tiny-arithmetic", "--no-teacher", *SHORT)
    ran = sparseopd("evaluate", STUDENT, *recipe, *words, "-o", out)
    assert ran.code == 0, ran.err
    scores = Scores.load(out / "scores.json")
    assert [row.n for row in read_benchmarks(scores)] == [3, 3]
    assert scores.arms[0].accuracy is not None and scores.settings["benchmark_limit"] == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--lm-eval-limit", "3"), "--lm-eval-limit does nothing without --lm-eval"),
        (("--lm-eval", ","), "names no task"),
        ((), "is not a run folder"),
        (("--lm-eval", "x", "--engine", "vllm"), "there is no recipe"),
        (("--lm-eval", "x", "rollout.top_k=3"), "unknown recipe key rollout"),
        (("--lm-eval", "x", "--lm-eval-path", "nowhere"), "no folder of tasks nowhere"),
    ],
)
def test_wrong_requests_are_one_sentence(
    words: tuple[str, ...], sentence: str, sparseopd: Command
) -> None:
    ran = sparseopd("evaluate", STUDENT, *words)
    assert ran.code == 2 and sentence in ran.err and ran.err.count("\n") == 1


def test_an_image_set_with_lists_of_pictures_and_marks(tmp_path: Path, sparseopd: Command) -> None:
    """Columns and marks as in hiyouga/geometry3k, with pictures that the bundled model can read."""
    path = str(tiny.folder("tiny-digits") / "test.parquet")
    source = load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "c"))
    digits = [row for row in source.select(range(36)) if row["answer"].isdigit()]  # type: ignore
    table = [
        {
            "images": [row["image"]],
            "problem": f"<image>{row['prompt']}",
            "answer": rf"${row['answer']} ^ {{ \circ }}$",
        }
        for row in digits
    ]
    features = Features(
        {"images": List(Image()), "problem": Value("string"), "answer": Value("string")}
    )
    Dataset.from_list(table, features=features).to_parquet(tmp_path / "set.parquet")
    settings = (
        "data.image=images",
        "data.prompt=problem",
        "data.answer=answer",
        "data.grader=math",
    )
    names = (f"data.train={tmp_path}/set.parquet", f"data.test={tmp_path}/set.parquet")
    out = tmp_path / "out"
    words = ("--recipe", "tiny-digits", "--no-teacher", *SHORT, *settings, *names, "-o", out)
    ran = sparseopd("evaluate", "bundled:tiny-digits/student", *words)
    assert ran.code == 0, ran.err
    accuracy = Scores.load(out / "scores.json").arms[0].accuracy
    assert accuracy is not None and 0 < accuracy.mean < 1
