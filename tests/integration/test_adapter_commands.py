"""The adapter commands on real files: models, runs, patches, foreign formats, and wrong requests."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparseopd import recipe as recipes
from sparseopd.adapter_conversion import WITHOUT_BASE
from sparseopd.adapter_files import SparseAdapter
from sparseopd.adapter_files.convert import FORMATS
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import Provenance, RunDir, Scores
from sparseopd.distill import discover, train
from sparseopd.evaluation import arms_for, evaluate
from sparseopd.masks import Mask
from sparseopd.masks.bitmap import Bitmap
from sparseopd.pairs import open_tensors, resolve_path
from tests.conftest import make_qwen3
from tests.integration.conftest import SHORT, Command, Ran, files_of, loaded

PAIR = "bundled:tiny-arithmetic-sibling"
STUDENT, TEACHER = f"{PAIR}/student", f"{PAIR}/teacher"
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "adapter-file.md"


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def unwrapped(ran: Ran) -> str:
    """What was said, on one line."""
    return " ".join(ran.err.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """found/ (a discovery), sparse/ (a run in its mask, with snapshots) and scored/ (its evaluation)."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = recipes.load(recipes.find("tiny-arithmetic"), [*SHORT, "discover.steps=2"])
    found = discover(recipe, folder / "found")
    recipe.train.snapshots = [1, 2]
    sparse = train(recipe, folder / "sparse", mask=Mask.load(found.mask), name="sparse")
    scored = RunDir(folder / "scored")
    scored.create()
    evaluate(arms_for([sparse], recipe, teacher=False), recipe).save(scored.scores)
    return folder


def weights(model: str | Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, as integers of its bits."""
    tensors = open_tensors(model)
    return {name: tensors[name].contiguous().view(torch.uint8) for name in tensors.keys()}


def same(one: str | Path, other: str | Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def test_all_that_changed_gives_the_tuned_model_bit_for_bit(here: Path, sparseopd: Command) -> None:
    ran = done(sparseopd("adapter", "extract", STUDENT, TEACHER, "-o", "a", "--json"))
    facts = json.loads(ran.out)
    assert facts["exact"] and facts["lost"] == facts["rounded"] == 0
    assert facts["k"] == facts["changed"] == SparseAdapter.load("a").count()
    assert facts["bytes"] == (here / "a" / "adapter_model.safetensors").stat().st_size
    assert f"applied to {STUDENT}" in ran.err and "bit for bit" in ran.err
    assert set(files_of(here / "a")) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    ran = done(sparseopd("adapter", "apply", STUDENT, "a", "-o", "made", "--json"))
    assert json.loads(ran.out)["k"] == facts["k"] and json.loads(ran.out)["verified"]
    assert same("made", TEACHER) and not same("made", STUDENT)
    AutoModelForCausalLM.from_pretrained("made")


def test_a_share_of_it_says_what_is_left_out(here: Path, sparseopd: Command) -> None:
    done(sparseopd("mask", "select", STUDENT, TEACHER, "--density", 0.2, "-o", "m"))
    by = {
        "density": ("--density", 0.2),
        "k": ("--k", Mask.load("m").count()),
        "mask": ("--mask", "m"),
    }
    for name, words in by.items():
        ran = done(sparseopd("adapter", "extract", STUDENT, TEACHER, *words, "-o", name, "--json"))
        facts = json.loads(ran.out)
        assert not facts["exact"] and facts["density"] == pytest.approx(0.2, abs=1e-5)
        assert (
            f"{facts['lost']:,} of the {facts['changed']:,} changed weights are left out" in ran.err
        )
        assert SparseAdapter.load(name).mask == Mask.load("m")
    assert "changed weights are left out" in (here / "mask" / "README.md").read_text()
    assert "bit for bit:" in (here / "mask" / "README.md").read_text()


def test_chosen_values_that_did_not_change_are_told(here: Path, sparseopd: Command) -> None:
    base = make_qwen3()
    base.save_pretrained("base")
    with torch.no_grad():
        base.model.norm.weight[:5] += 1.0
    base.save_pretrained("tuned")
    ran = done(sparseopd("adapter", "extract", "base", "tuned", "--k", 8, "-o", "a"))
    assert "3 of its values are the base's own: chosen, and not changed" in ran.err


def test_a_run_tells_base_mask_teacher_and_scores(
    runs: Path, here: Path, sparseopd: Command
) -> None:
    run = RunDir(runs / "sparse")
    done(sparseopd("adapter", "extract", run.path, "-o", "a", "--scores", runs / "scored"))
    made, facts = SparseAdapter.load("a"), run.read_facts()
    assert made.mask == Mask.load(run.mask) and made.teacher == facts.teacher
    assert made.mask.provenance.base == facts.student == "bundled:tiny-arithmetic/student"
    done(sparseopd("adapter", "apply", facts.student, "a", "-o", "made"))
    assert same("made", run.checkpoint)
    card = ModelCard.load(here / "a" / "README.md")
    assert card.data.tags == ["sparseopd", "sparse", "on-policy-distillation"]
    assert card.data.pipeline_tag == "text-generation" and card.data.license == "unknown"
    assert "| sparse (the checkpoint this was taken from) |" in card.text
    assert "trained `bundled:tiny-arithmetic/student` for 4 steps" in card.text
    command = re.findall(r"^    (sparseopd evaluate .+)$", card.text, re.MULTILINE)[0]
    words = shlex.split(command)[1:]
    assert "--no-teacher" in words and "--no-source" not in words
    done(sparseopd(*words, "-o", "again"))
    scores, again = (
        Scores.load(folder / "scores.json") for folder in (runs / "scored", here / "again")
    )
    assert [arm.per_prompt for arm in again.arms] == [arm.per_prompt for arm in scores.arms]


def test_a_run_that_was_moved_keeps_its_scores(runs: Path, here: Path, sparseopd: Command) -> None:
    shutil.copytree(runs / "sparse", "moved")
    shutil.copy(runs / "scored" / "scores.json", "moved/scores.json")
    done(sparseopd("adapter", "extract", "moved", "-o", "a"))
    assert (
        "| sparse (the checkpoint this was taken from) |" in (here / "a" / "README.md").read_text()
    )
    scores = loaded(here / "moved" / "scores.json")
    scores["arms"] = scores["arms"][:1]
    (here / "moved" / "scores.json").write_text(json.dumps(scores))
    done(sparseopd("adapter", "extract", "moved", "-o", "b"))
    assert "This adapter was not evaluated" in (here / "b" / "README.md").read_text()


def test_a_run_without_its_mask(runs: Path, here: Path, sparseopd: Command) -> None:
    shutil.copytree(runs / "sparse", "run")
    (here / "run" / "mask.safetensors").unlink()
    done(sparseopd("adapter", "extract", "run", "-o", "changed"))
    made = SparseAdapter.load("changed")
    trained = Mask.load(runs / "sparse" / "mask.safetensors")
    assert made.mask.coverage(trained) == 1.0 and made.mask.provenance.steps == 4
    done(sparseopd("adapter", "extract", runs / "sparse", "--density", 0.01, "-o", "few"))
    assert SparseAdapter.load("few").mask.density() == pytest.approx(0.01, abs=1e-4)


@pytest.fixture
def patches(runs: Path, here: Path, sparseopd: Command) -> list[str]:
    """From the student to step 1, to step 2, to the end of the run."""
    run = RunDir(runs / "sparse")
    stops = ["bundled:tiny-arithmetic/student", run.kept_weights(1), run.kept_weights(2), run.path]
    for number, (before, after) in enumerate(pairwise(stops)):
        done(sparseopd("adapter", "extract", before, after, "-o", f"p{number}"))
    return ["p0", "p1", "p2"]


def test_a_chain_of_patches_gives_the_last_checkpoint(
    runs: Path, patches: list[str], here: Path, sparseopd: Command
) -> None:
    states = [(one.base_state(), one.result_state()) for one in map(SparseAdapter.load, patches)]
    assert states[0][1] == states[1][0] and states[1][1] == states[2][0]
    student = "bundled:tiny-arithmetic/student"
    ran = done(sparseopd("adapter", "apply", student, *patches, "-o", "last"))
    assert "of 3 patches" in ran.err
    assert same("last", runs / "sparse" / "checkpoint")
    shown = done(sparseopd("adapter", "show", "p1")).err
    assert f"state {states[1][0][:12]}" in shown and f"result state {states[1][1][:12]}" in shown
    for wrong in (["p0", "p2"], ["p1", "p0"], ["p1"]):
        ran = sparseopd("adapter", "apply", student, *wrong, "-o", "x")
        assert ran.code == 2 and re.search(r"model\.\S+ \(other values\)", ran.err), ran.err
        assert not (here / "x").exists()


def test_verify_names_every_tensor_that_differs(here: Path, sparseopd: Command) -> None:
    done(sparseopd("adapter", "extract", STUDENT, TEACHER, "--density", 0.1, "-o", "a"))
    assert "35 tensors agree" in done(sparseopd("adapter", "verify", "a", STUDENT)).err
    assert json.loads(done(sparseopd("adapter", "verify", "a", STUDENT, "--json")).out)["fits"]
    model = AutoModelForCausalLM.from_pretrained(resolve_path(STUDENT))
    with torch.no_grad():
        model.model.norm.weight[0] += 1
        model.model.layers[1].mlp.up_proj.weight[3, 3] = 0.5
    model.save_pretrained("changed")
    ran = sparseopd("adapter", "verify", "a", "changed")
    assert ran.code == 2
    assert ran.err.splitlines()[:2] == [
        "model.layers.1.mlp.up_proj.weight: other values",
        "model.norm.weight: other values",
    ]
    ran = sparseopd("adapter", "verify", "a", "bundled:tiny-arithmetic/student", "--json")
    assert ran.code == 2 and not json.loads(ran.out)["fits"]
    content = bytearray((here / "a" / "adapter_model.safetensors").read_bytes())
    content[len(content) // 2] ^= 4
    (here / "a" / "adapter_model.safetensors").write_bytes(content)
    ran = sparseopd("adapter", "verify", "a", STUDENT)
    assert ran.code == 2 and "a is damaged in model." in ran.err


def test_showing(here: Path, sparseopd: Command) -> None:
    words = ("--density", 0.2, "--teacher", "org/teacher", "-o", "a")
    done(sparseopd("adapter", "extract", STUDENT, TEACHER, *words))
    ran = done(sparseopd("adapter", "show", "a"))
    for part in ("(20 %), in 35 of 35 tensors", "stored in bfloat16, without float32 masters", f"base {STUDENT}",
                 "teacher org/teacher", "selector topk (density 0.2", "Layers, % in the mask"):  # fmt: skip
        assert part in ran.err, part
    assert max(map(len, ran.err.splitlines())) <= 80
    shown = json.loads(done(sparseopd("adapter", "show", "a", "--json")).out)
    assert sum(row["count"] for row in shown["layout"]) == shown["k"]
    assert shown["dtypes"] == ["bfloat16"] and not shown["masters"]
    assert shown["provenance"]["base_hashes"] == shown["tensors"] == 35


def test_foreign_text_is_shown_on_its_line_and_steers_nothing(
    here: Path, sparseopd: Command
) -> None:
    nasty = "x\u202ey\x1b[31m\nz\x07"
    known = Provenance(
        base=nasty, revision=nasty, tuned=nasty, selector=nasty, settings={nasty: [nasty]}, steps=1
    )
    with AdapterWriter(here / "a") as writer:
        chosen = Bitmap.pack("w", torch.ones(2, dtype=torch.bool))
        writer.add(f"w{nasty}", chosen, torch.ones(2))
        writer.finish(known, nasty)
    ran = done(sparseopd("adapter", "show", "a"))
    assert not any(sign in ran.err for sign in "\u202e\x1b\x07")
    safe = "x\ufffdy\ufffd[31m z\ufffd"
    for line in (f"base {safe} at {safe}, state unknown", f"teacher {safe}", f"values of {safe}"):
        assert line in ran.err.splitlines(), line


def test_a_folder_may_begin_with_a_tilde(here: Path, sparseopd: Command) -> None:
    done(sparseopd("adapter", "extract", STUDENT, TEACHER, "--k", 9, "-o", "~x9"))
    assert (here / "~x9" / "README.md").is_file()


@pytest.fixture
def wide(here: Path, sparseopd: Command) -> Path:
    """An adapter of a bfloat16 base with the float32 masters of its values."""
    base, tuned = make_qwen3(), make_qwen3()
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(
                torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
            )
    base.bfloat16().save_pretrained("base")
    tuned.save_pretrained("tuned")
    ran = done(
        sparseopd("adapter", "extract", "base", "tuned", "--k", 900, "--masters", "-o", "wide")
    )
    assert "it gives them rounded; float32 masters keep those among its own values" in unwrapped(
        ran
    )
    return here / "wide"


def test_masters_can_be_left_out_later(wide: Path, here: Path, sparseopd: Command) -> None:
    with (wide / "README.md").open("a") as card:
        card.write("\nMy words.\n")
    ran = done(sparseopd("adapter", "convert", wide, "--no-masters", "-o", "slim"))
    assert "the float32 masters are left out" in ran.err
    assert f"slim holds 900 of the 900 values of {wide}" in ran.err
    before, after = SparseAdapter.load(wide), SparseAdapter.load("slim")
    assert before.has_masters and not after.has_masters
    assert after.result_state() == before.result_state() != ""
    assert all(torch.equal(before.values(name), after.values(name)) for name in before.touched)
    sizes = [
        (folder / "adapter_model.safetensors").stat().st_size for folder in (wide, here / "slim")
    ]
    assert sizes[0] - sizes[1] > 4 * 900
    (wide / "README.md").rename(here / "card")
    done(sparseopd("adapter", "convert", wide, "--no-masters", "-o", "bare"))
    assert "This adapter was not evaluated" in (here / "bare" / "README.md").read_text()
    assert (here / "slim" / "README.md").read_bytes() == (here / "card").read_bytes()
    assert "and in float32 too" in sparseopd("adapter", "show", wide).err


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.export])
def test_to_a_foreign_format_and_back(name: str, here: Path, sparseopd: Command) -> None:
    scope = ("--include", "ffn", "--density", 0.1)
    done(sparseopd("mask", "select", STUDENT, TEACHER, *scope, "-o", "m"))
    done(sparseopd("adapter", "extract", STUDENT, TEACHER, "--mask", "m", "-o", "a"))
    ran = done(sparseopd("adapter", "convert", "a", "--to", name, "-o", "foreign", "--json"))
    facts = json.loads(ran.out)
    lossless = len(facts["losses"]) == bool(facts["padding"])  # padding is said, and loses nothing
    assert facts["format"] == name
    assert ("nothing is lost" in ran.err) is (not facts["losses"])
    assert (
        f"foreign holds {facts['k']:,} of the {SparseAdapter.load('a').count():,} values of a"
        in ran.err
    )
    assert all(sentence in unwrapped(ran) for sentence in facts["losses"])
    assert lossless or name not in WITHOUT_BASE
    base = ("--base", STUDENT) if name in WITHOUT_BASE else ()  # PEFT's formats name theirs
    ran = done(sparseopd("adapter", "convert", "foreign", *base, "-o", "back", "--json"))
    assert json.loads(ran.out)["format"] == name
    assert ModelCard.load(here / "back" / "README.md").data.pipeline_tag == "text-generation"
    done(sparseopd("adapter", "verify", "back", STUDENT))
    for adapter in ("a", "back"):
        done(sparseopd("adapter", "apply", STUDENT, adapter, "-o", f"{adapter}.applied"))
    assert same("a.applied", "back.applied") is lossless


def test_the_document_reads_the_file(here: Path, sparseopd: Command) -> None:
    """As it stands there: tensors with few, many and almost all coordinates, and more than a block."""
    generator = torch.Generator().manual_seed(0)
    base = {
        name: torch.randn(700, 500, generator=generator) for name in ("few", "half", "most", "none")
    }
    base |= {
        "all": torch.randn(77, generator=generator).bfloat16(),
        "one": torch.randn((), generator=generator),
    }
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    for name, share in {"few": 0.01, "half": 0.5, "most": 0.97, "all": 1.1, "one": 1.1}.items():
        tuned[name][torch.rand(base[name].shape, generator=generator) < share] += 1.0
    for name, tensors in {"base": base, "tuned": tuned}.items():
        (here / name).mkdir()
        save_file(tensors, here / name / "model.safetensors")
    done(sparseopd("adapter", "extract", "base", "tuned", "-o", "a"))
    shutil.copy("a/adapter_model.safetensors", ".")
    code = DOCUMENT.read_text().split("```python\n")[1].split("```")[0]
    state = load_file("base/model.safetensors")
    exec(code, {"state": state})
    assert all(torch.equal(state[name], tuned[name]) for name in tuned)
