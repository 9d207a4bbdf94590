"""Every wrong request of the adapter commands: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from sparseopd import recipe as recipes
from sparseopd.adapter_files.extract import extract
from sparseopd.artifacts import ArmScores, RunDir, RunFacts, Scores
from sparseopd.masks import select
from tests.conftest import make_qwen3
from tests.integration.conftest import Command, files_of

STUDENT, TEACHER = (f"bundled:tiny-arithmetic-sibling/{role}" for role in ("student", "teacher"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What wrong requests are made of."""
    folder = tmp_path_factory.mktemp("bench")
    extract(STUDENT, TEACHER, folder / "good")
    shutil.copytree(folder / "good", folder / "damaged")
    file = folder / "damaged" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    shutil.copytree(folder / "good", folder / "short")
    file = folder / "short" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("nothing")
    select(STUDENT, selector="random", output=folder / "mask")
    select("bundled:tiny-digits/student", selector="random", output=folder / "other.mask")
    _discovery(folder / "found")
    _scores(folder / "scores.json")
    make_qwen3().save_pretrained(folder / "gone")
    tuned = make_qwen3(seed=1)
    tuned.save_pretrained(folder / "tuned")
    extract(folder / "gone", folder / "tuned", folder / "orphan")
    shutil.rmtree(folder / "gone")
    return folder


def _discovery(folder: Path) -> None:
    """A run that left no checkpoint."""
    recipe, run = recipes.load(recipes.find("tiny-arithmetic")), RunDir(folder)
    run.create()
    run.recipe.write_text(recipe.to_yaml())
    facts = RunFacts(
        kind="discover",
        name="found",
        student="s",
        teacher="t",
        steps=1,
        lr=1.0,
        seed=0,
        seconds=1.0,
    )
    run.write_facts(facts)


def _scores(path: Path) -> None:
    """An evaluation of another model."""
    arm = ArmScores(name="other", kind="model", path="elsewhere", accuracy=None)
    Scores(name="an evaluation", settings={}, arms=[arm]).save(path)


EXTRACT = ("extract", STUDENT, TEACHER)
WRONG = {
    "no base": (["extract", "./absent", TEACHER], "there is no model folder ./absent"),
    "no tuned": (["extract", STUDENT, "./absent"], "there is no model folder ./absent"),
    "one model": (["extract", STUDENT], "give the model before and after training"),
    "no checkpoint": (["extract", "found"], "found is a discover run and left no checkpoint"),
    "an adapter": (["extract", STUDENT, "good"], "good is an adapter, not a model"),
    "no sibling": (["extract", STUDENT, "bundled:tiny-digits/student"], "bundled:tiny-digits/student"),
    "no difference": (["extract", STUDENT, STUDENT], "nothing differs between"),
    "mask and density": ([*EXTRACT, "--mask", "mask", "--density", 0.1], "--mask and --density 0.1 both say"),
    "mask and k": ([*EXTRACT, "--mask", "mask", "--k", 10], "--mask and --k 10 both say"),
    "density and k": ([*EXTRACT, "--density", 0.1, "--k", 9], "density and k both say"),
    "density 0": ([*EXTRACT, "--density", 0], "density is 0"),
    "no mask": ([*EXTRACT, "--mask", "absent"], "absent"),
    "no mask file": ([*EXTRACT, "--mask", "notes.txt"], "notes.txt"),
    "another's mask": ([*EXTRACT, "--mask", "other.mask"], "discover a mask for this model"),
    "no masters": ([*EXTRACT, "--masters"], "float32 masters would hold the same values"),
    "others' scores": ([*EXTRACT, "--scores", "scores.json"], "scores.json has no scores of"),
    "no scores": ([*EXTRACT, "--scores", "notes.txt"], "notes.txt is not valid JSON"),
    "base of another": (["apply", TEACHER, "good"], "model.embed_tokens.weight (other values)"),
    "no adapter": (["apply", STUDENT, "./absent"], "there is no model folder ./absent"),
    "empty folder": (["apply", STUDENT, "empty"], "empty holds no adapter"),
    "damaged": (["apply", STUDENT, "damaged"], "damaged is damaged in model."),
    "cut short": (["apply", STUDENT, "short"], "is cut short"),
    "twice": (["apply", STUDENT, "good", "good"], "was made for other weights than good leaves"),
    "verify another": (["verify", "good", "tuned"], "the adapter good was made for"),
    "verify damaged": (["verify", "damaged", STUDENT], "damaged is damaged in model."),
    "show a model": (["show", STUDENT], "holds no adapter"),
    "show a file": (["show", "mask"], "mask is a file: give the folder of the adapter"),
    "show a run": (["show", "found"], "found is a run: make its adapter with sparseopd adapter extract found -o"),
    "apply a run": (["apply", STUDENT, "good", "found"], "found is a run: make its adapter with"),
    "apply a file": (["apply", STUDENT, "good/adapter_model.safetensors"], "give the folder of the adapter"),
    "apply to a run": (["apply", "found", "good"], "found is a run: give the folder of a model"),
    "verify a run": (["verify", "good", "found"], "found is a run: give the folder of a model"),
    "no target": (["convert", "good"], "good is a sparseopd adapter already"),
    "unknown target": (["convert", "good", "--to", "dora"], "there is no format 'dora'"),
    "unknown source": (["convert", "notes.txt", "--from", "dora", "--base", STUDENT], "there is no format 'dora'"),
    "another source": (["convert", "good", "--from", "dora"], "good is of the format sparse, not dora"),
    "no known format": (["convert", "empty", "--base", STUDENT], "no known format"),
    "two foreign formats": (["convert", "notes.txt", "--from", "coo", "--to", "lora"], "in two steps"),
    "not written": (["convert", "good", "--to", "lt-sft"], "good cannot be converted to lt-sft"),
    "no rank": (["convert", "good", "--to", "shira", "--rank", 4], "--rank 4 is for --to lora"),
    "rank 0": (["convert", "good", "--to", "lora", "--rank", 0], "a rank of 0 holds nothing"),
    "masters elsewhere": (["convert", "good", "--to", "coo", "--no-masters"], "--no-masters is for"),
    "nothing to leave out": (["convert", "good", "--no-masters"], "no float32 masters to leave out"),
    "base gone": (["convert", "orphan", "--to", "shira"], "holds differences from it: give it with --base"),
    "base not named": (["convert", "notes.txt", "--from", "coo"], "notes.txt does not name the model"),
    "no such file": (["convert", "./absent"], "there is no model folder ./absent"),
}  # fmt: skip


@pytest.mark.parametrize("words, part", WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    words: Sequence[object],
    part: str,
    bench: Path,
    sparseopd: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bench)
    before = files_of(bench)
    output = [] if words[0] in ("verify", "show") else ["-o", "x"]
    ran = sparseopd("adapter", *words, *output)
    assert ran.code == 2, ran.err
    sentence = ran.err[ran.err.index("error: ") :]
    assert part in sentence and sentence.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    assert files_of(bench) == before and not (bench / "x").exists()


@pytest.mark.parametrize(
    "output, part",
    [
        ("good", "good already holds files"),
        ("notes.txt", "notes.txt already holds files"),
        ("absent/x", "there is no folder absent to make x in"),
        ("x" * 300, "is too long for a folder"),
    ],
)
@pytest.mark.parametrize("words", [EXTRACT, ("apply", STUDENT, "good"), ("convert", "good", "--to", "coo")],
                         ids=lambda words: words[0])  # fmt: skip
def test_nothing_is_written_over_or_anywhere_else(
    words: Sequence[str],
    output: str,
    part: str,
    bench: Path,
    sparseopd: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bench)
    before = files_of(bench)
    ran = sparseopd("adapter", *words, "-o", output)
    assert ran.code == 2 and part in ran.err and ran.err.count("\n") == 1, ran.err
    assert files_of(bench) == before
