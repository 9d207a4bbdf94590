"""The mask commands on real files: single and sharded, of other dtypes, adapters, many masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sparseopd.masks import Mask, select
from sparseopd.pairs import tiny
from tests.conftest import make_qwen3
from tests.integration.conftest import Command, Ran

PAIR = "bundled:tiny-arithmetic-sibling"
STUDENT, TEACHER = f"{PAIR}/student", f"{PAIR}/teacher"


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_mask_from_two_folders(here: Path, sparseopd: Command) -> None:
    ran = done(sparseopd("mask", "select", STUDENT, TEACHER, "--density", 0.2, "-o", "m", "--json"))
    mask = Mask.load("m")
    assert json.loads(ran.out)["k"] == mask.count() == round(0.2 * mask.numel())
    assert "MB in" in ran.err and "bits a coordinate" in ran.err
    assert mask == select(STUDENT, TEACHER, density=0.2)
    assert mask.provenance.tuned == TEACHER and mask.provenance.compared_in == "float32"
    assert mask.provenance.settings == {"density": 0.2, "budget": "global"}


def test_shards_and_dtypes_may_differ_on_the_two_sides(here: Path, sparseopd: Command) -> None:
    base, tuned = make_qwen3(seed=0), make_qwen3(seed=0)
    with torch.no_grad():
        for number, weight in enumerate(tuned.parameters()):
            weight.add_(
                torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 1e-2
            )
    base.bfloat16().save_pretrained("base", max_shard_size="9KB")
    tuned.save_pretrained("one")
    tuned.save_pretrained("many", max_shard_size="17KB")
    assert len(list((here / "base").glob("*.safetensors"))) > 2
    for tuned_folder in ("one", "many"):
        done(sparseopd("mask", "select", "base", tuned_folder, "-o", f"{tuned_folder}.mask"))
    stored = {"base": ["bfloat16"], "tuned": ["float32"]}
    assert Mask.load("one.mask").provenance.stored_in == stored
    assert Mask.load("one.mask") == Mask.load("many.mask") == select(base, tuned, density=0.1)
    done(sparseopd("mask", "verify", "one.mask", "base"))


def test_a_lora_folder_is_an_update(here: Path, sparseopd: Command) -> None:
    base = make_qwen3()
    base.save_pretrained("base")
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    adapted.save_pretrained("adapter")
    adapted.merge_and_unload().save_pretrained("merged")  # pyright: ignore
    done(sparseopd("mask", "select", "base", "adapter", "--k", 500, "-o", "a"))
    done(sparseopd("mask", "select", "base", "merged", "--k", 500, "-o", "b"))
    one, two = Mask.load("a"), Mask.load("b")
    assert {name for name in one.names if one.count(name)} == {
        name for name in one.names if "q_proj" in name or "up_proj" in name
    }
    assert (
        one.count() == 500 and one.jaccard(two) > 0.98
    )  # the merge rounds, which the adapter does not
    done(sparseopd("mask", "select", "base", "adapter", "--selector", "changed", "-o", "c"))
    done(sparseopd("mask", "select", "base", "merged", "--selector", "changed", "-o", "d"))
    assert Mask.load("c").jaccard(Mask.load("d")) > 0.99


@pytest.mark.parametrize(
    "words",
    [
        ["--selector", "topk-relative", "--relative-to", "rms"],
        ["--selector", "topk-per-tensor"],
        ["--selector", "threshold", "--threshold", "1e-3"],
        ["--selector", "changed", "--dtype", "float16", "--eta", "1e-3"],
        ["--budget", "block", "--include", "ffn", "--include", "*norm*", "--exclude", "*.0.*"],
        ["--selector", "principal", "--rank", "0.3"],
        ["--selector", "low-magnitude", "--k", "1000"],
    ],
    ids=lambda words: " ".join(words),
)
def test_every_option_of_select(words: list[str], here: Path, sparseopd: Command) -> None:
    data_free = words[1] in ("principal", "low-magnitude")
    models = [STUDENT] if data_free else [STUDENT, TEACHER]
    done(sparseopd("mask", "select", *models, *words, "-o", "m"))
    mask = Mask.load("m")
    assert 0 < mask.count() < mask.numel()
    mask.verify(STUDENT)
    if "--include" in words:
        chosen = [name for name in mask.names if mask.count(name)]
        assert chosen and all(
            ("mlp" in name or "norm" in name) and ".0." not in name for name in chosen
        )


def test_masks_drawn_like_another(here: Path, sparseopd: Command) -> None:
    done(sparseopd("mask", "select", STUDENT, TEACHER, "-o", "m"))
    for match in ("tensor", "magnitude"):
        like = ("--selector", "random", "--like", "m", "--match", match)
        done(sparseopd("mask", "select", STUDENT, *like, "-o", match))
        assert [Mask.load(match).count(n) for n in Mask.load("m").names] == [
            Mask.load("m").count(n) for n in Mask.load("m").names
        ]
        assert Mask.load(match).provenance.settings == {
            "like": Mask.load("m").digest(),
            "match": match,
        }


def test_combining(here: Path, sparseopd: Command) -> None:
    for seed in (0, 1, 2):
        draw = ("--selector", "random", "--density", 0.3, "--seed", seed)
        done(sparseopd("mask", "select", STUDENT, *draw, "-o", f"m{seed}"))
    a, b, c = (Mask.load(f"m{seed}") for seed in (0, 1, 2))
    expected = {
        "union": (a | b) | c,
        "intersection": (a & b) & c,
        "difference": (a - b) - c,
    }
    for operation, mask in expected.items():
        done(sparseopd("mask", "combine", operation, "m0", "m1", "m2", "-o", operation))
        assert Mask.load(operation) == mask
        Mask.load(operation).verify(STUDENT)
    done(sparseopd("mask", "combine", "complement", "m0", "-o", "complement"))
    assert Mask.load("complement") == ~a
    ran = sparseopd("mask", "combine", "complement", "m0", "m1", "-o", "x")
    assert ran.code == 2 and "complement needs one mask, and 2 were given" in ran.err
    assert sparseopd("mask", "combine", "union", "m0", "-o", "x").code == 2
    assert not (here / "x").exists()


def test_overlap_of_several_masks(here: Path, sparseopd: Command) -> None:
    done(sparseopd("mask", "select", STUDENT, TEACHER, "-o", "moved"))
    for name, words in {
        "low": ["--selector", "low-magnitude"],
        "random": ["--selector", "random"],
    }.items():
        done(sparseopd("mask", "select", STUDENT, *words, "-o", name))
    ran = done(
        sparseopd("mask", "overlap", "moved", "low", "random", "--json", "--figure", "o.svg")
    )
    pairs = json.loads(ran.out)
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("moved", "low"), ("moved", "random"), ("low", "random"),
    ]  # fmt: skip
    moved, low = Mask.load("moved"), Mask.load("low")
    whole = pairs[0]["all"]
    assert whole["both"] == (moved & low).count()
    assert whole["jaccard"] == pytest.approx(moved.jaccard(low))
    assert whole["coverage"] == pytest.approx(moved.coverage(low))
    assert whole["coverage_back"] == pytest.approx(low.coverage(moved))
    assert whole["chance"] == pytest.approx(low.density())
    assert sum(block["both"] for block in pairs[0]["by_block"].values()) == whole["both"]
    assert set(pairs[0]["by_layer"]) == {"0", "1", "2"}
    assert abs(pairs[2]["all"]["deviations"]) < 5
    assert "<svg" in (here / "o.svg").read_text()
    shown = done(sparseopd("mask", "overlap", "moved", "low"))
    assert max(map(len, shown.err.splitlines())) <= 80 and "attention" in shown.err


def test_overlap_without_the_base(here: Path, sparseopd: Command) -> None:
    shutil.copytree(tiny.folder("tiny-arithmetic-sibling") / "student", "mine")
    for seed in (0, 1):
        done(
            sparseopd(
                "mask", "select", "mine", "--selector", "random", "--seed", seed, "-o", f"m{seed}"
            )
        )
    shutil.move("mine", "elsewhere")
    ran = done(sparseopd("mask", "overlap", "m0", "m1", "--json"))
    assert "no null: the masks' base mine is not here" in ran.err
    assert json.loads(ran.out)[0]["all"]["null"] is None
    ran = done(sparseopd("mask", "overlap", "m0", "m1", "--base", "elsewhere", "--json"))
    assert json.loads(ran.out)[0]["all"]["null"] == pytest.approx(0.1, abs=0.01)
    ran = sparseopd("mask", "overlap", "m0", "m1", "--base", TEACHER)
    assert ran.code == 2 and "made for other weights" in ran.err


def test_masks_of_other_weights_do_not_mix(here: Path, sparseopd: Command) -> None:
    for name, model in {"a": STUDENT, "b": TEACHER, "c": "bundled:tiny-digits/student"}.items():
        done(sparseopd("mask", "select", model, "--selector", "random", "-o", name))
    for command in (["combine", "union", "a", "b", "-o", "x"], ["overlap", "a", "b"]):
        ran = sparseopd("mask", *command)
        assert ran.code == 2 and "made for different weights" in ran.err
    ran = sparseopd("mask", "overlap", "a", "c")
    assert ran.code == 2 and "belong to different models" in ran.err


def test_verify_names_every_tensor_that_differs(here: Path, sparseopd: Command) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.folder("tiny-arithmetic-sibling") / "student")
    done(sparseopd("mask", "select", STUDENT, "--selector", "random", "-o", "m"))
    done(sparseopd("mask", "verify", "m", STUDENT))
    with torch.no_grad():
        model.model.norm.weight[0] += 1
        model.model.layers[1].mlp.up_proj.weight[3, 3] = 0.5
    model.save_pretrained("changed")
    ran = sparseopd("mask", "verify", "m", "changed")
    assert ran.code == 2
    assert ran.err.splitlines()[:2] == [
        "model.layers.1.mlp.up_proj.weight: other values",
        "model.norm.weight: other values",
    ]
    ran = sparseopd("mask", "verify", "m", "bundled:tiny-arithmetic/student", "--json")
    assert ran.code == 2 and not json.loads(ran.out)["fits"]


def test_verify_finds_an_altered_file(here: Path, sparseopd: Command) -> None:
    done(sparseopd("mask", "select", STUDENT, "--selector", "random", "-o", "m"))
    content = bytearray((here / "m").read_bytes())
    content[-100] ^= 4
    (here / "m").write_bytes(content)
    ran = sparseopd("mask", "verify", "m", STUDENT)
    assert ran.code == 2 and "is damaged in" in ran.err


def test_showing(here: Path, sparseopd: Command) -> None:
    done(sparseopd("mask", "select", STUDENT, TEACHER, "--density", 0.2, "-o", "m"))
    ran = done(sparseopd("mask", "show", "m", "--figure", "m.png"))
    assert "(20 %)" in ran.err and f"compared with {TEACHER} in float32" in ran.err
    assert max(map(len, ran.err.splitlines())) <= 80
    assert (here / "m.png").read_bytes()[:4] == b"\x89PNG"
    shown = json.loads(done(sparseopd("mask", "show", "m", "--json")).out)
    assert sum(row["count"] for row in shown["layout"]) == shown["k"]


def test_saliency_takes_scores_not_a_model(here: Path, sparseopd: Command) -> None:
    ran = sparseopd("mask", "select", STUDENT, TEACHER, "--selector", "saliency", "-o", "m")
    assert ran.code == 2 and "takes a folder of scores" in ran.err and not (here / "m").exists()


def test_coordinates_that_did_not_move_are_told(here: Path, sparseopd: Command) -> None:
    base = make_qwen3()
    base.save_pretrained("base")
    with torch.no_grad():
        base.model.norm.weight[:5] += 1.0
    base.save_pretrained("tuned")
    ran = done(sparseopd("mask", "select", "base", "tuned", "--k", 8, "-o", "m"))
    assert "3 of the 8 chosen did not move" in ran.err
    assert "3 of the 8 chosen did not move" in sparseopd("mask", "show", "m").err


def test_an_empty_combination_is_not_written(here: Path, sparseopd: Command) -> None:
    done(sparseopd("mask", "select", STUDENT, "--selector", "random", "-o", "m"))
    ran = sparseopd("mask", "combine", "difference", "m", "m", "-o", "x")
    assert ran.code == 2 and "difference of m, m is empty" in ran.err and not (here / "x").exists()


def test_an_adapter_is_no_base(here: Path, sparseopd: Command) -> None:
    get_peft_model(make_qwen3(), LoraConfig(target_modules=["q_proj"])).save_pretrained("adapter")
    ran = sparseopd("mask", "select", "adapter", "--selector", "random", "-o", "m")
    assert ran.code == 2 and "is an adapter, not a model" in ran.err
    make_qwen3().save_pretrained("base")
    ran = sparseopd("mask", "select", "base", "adapter", "--selector", "saliency", "-o", "m")
    assert ran.code == 2 and "takes a folder of scores" in ran.err


def test_masks_of_one_file_name_are_told_apart(here: Path, sparseopd: Command) -> None:
    for run in ("one", "two"):
        (here / run).mkdir()
        done(
            sparseopd(
                "mask", "select", STUDENT, "--selector", "random", "-o", f"{run}/mask.safetensors"
            )
        )
    ran = done(
        sparseopd("mask", "overlap", "one/mask.safetensors", "two/mask.safetensors", "--json")
    )
    pair = json.loads(ran.out)[0]
    assert (pair["first"], pair["second"]) == ("one/mask", "two/mask")
    assert pair["all"]["jaccard"] == 1.0


def test_a_hub_id_is_read_from_the_cache(
    here: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, commit = here / "hub" / "models--nobody--tiny", "0123456789abcdef" * 2 + "01234567"
    snapshot = repository / "snapshots" / commit
    make_qwen3().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "hub"))
    done(sparseopd("mask", "select", "nobody/tiny", "--selector", "random", "-o", "m"))
    mask = Mask.load("m")
    assert (mask.provenance.base, mask.provenance.revision) == ("nobody/tiny", commit)
    mask.verify(make_qwen3())
