"""SHiRA, SUPERTUNING and LoRA go to and come from a PEFT that has never heard of this project."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import Converted, detect, export, import_
from sparseopd.pairs import tiny
from tests.adapter_files.converting import (
    Trio,
    applied,
    bits,
    contents,
    counted,
    same_bits,
    sparse_tuned,
)
from tests.conftest import make_qwen3

ALONE = """
import json, sys, warnings
from pathlib import Path
import torch
from peft import LoraConfig, PeftModel, ShiraConfig, SupertuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

CONFIGS = {"shira": ShiraConfig, "supertuning": SupertuningConfig, "lora": LoraConfig}
said = {}

def load(job):
    kind = AutoModelForImageTextToText if job["images"] else AutoModelForCausalLM
    return kind.from_pretrained(job["base"], dtype="auto").eval()

def check_forward(model, job):
    if not job["images"]:
        ids = torch.arange(8)[None]
        adapted = model(ids).logits
        merged = model.merge_and_unload()
        return merged, torch.equal(adapted, merged(ids).logits)
    return model.merge_and_unload(), True

for name, job in json.loads(sys.argv[1]).items():
    base = load(job)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if "make" in job:
            kind = job["make"]
            torch.manual_seed(0)
            config = CONFIGS[kind](target_modules=["q_proj", "down_proj"], **job["settings"])
            model = get_peft_model(base, config)
            for key, weight in model.named_parameters():
                if weight.requires_grad:
                    # Some are smaller than a weight in bfloat16 can notice, and some are nothing.
                    weight.data = torch.randn(weight.shape) * 10 ** -(torch.rand(weight.shape) * 8)
                    weight.data[..., ::7] = 0
            model.save_pretrained(job["adapter"])
            model = PeftModel.from_pretrained(load(job), job["adapter"])
        else:
            model = PeftModel.from_pretrained(base, job["adapter"])
    merged, same = check_forward(model, job)
    merged.save_pretrained(job["merged"])
    said[name] = {"warnings": [
        str(one.message) for one in caught if not issubclass(one.category, FutureWarning)
    ], "forward": same}
assert "sparseopd" not in sys.modules
print(json.dumps(said))
"""
"""Loads or makes adapters, merges them and saves the results; run where sparseopd is not imported."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MADE = {
    "shira": {"r": 2, "init_weights": False},
    "supertuning": {"sparsity": 0.8, "init_weights": False},
    "lora": {"r": 4},
}


def llava() -> PreTrainedModel:
    student = tiny.folder("tiny-digits") / "student"
    return AutoModelForImageTextToText.from_pretrained(student, dtype=torch.float32)


@dataclass(frozen=True)
class Ran:
    """What PEFT made of each adapter."""

    folder: Path
    trios: dict[str, Trio]
    exported: dict[str, Converted]
    said: dict[str, Any]

    def merged(self, name: str) -> dict[str, Tensor]:
        return contents(self.folder / name / "merged")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Export all, and run PEFT once."""
    folder = tmp_path_factory.mktemp("peft")
    trios = {
        name: sparse_tuned(folder / name, make_qwen3(tied=False), dtype)
        for name, dtype in DTYPES.items()
    }
    trios["tied"] = sparse_tuned(folder / "tied", make_qwen3())
    trios["llava"] = sparse_tuned(folder / "llava", llava())
    exported, jobs = {}, {}
    for at, format in [
        *((at, format) for at in DTYPES for format in ("shira", "supertuning")),
        ("float32", "lora"),
        ("tied", "shira"),
        ("llava", "supertuning"),
    ]:
        name = f"{at}-{format}"
        target = folder / name / "adapter"
        target.parent.mkdir()
        exported[name] = export(trios[at].open(), trios[at].base, target, format)
        jobs[name] = _job(trios[at].base, folder / name, images=at == "llava")
    for at in DTYPES:
        for format, settings in MADE.items():
            job = _job(trios[at].base, folder / f"made-{at}-{format}", images=False)
            jobs[f"made-{at}-{format}"] = job | {"make": format, "settings": settings}
    command = [sys.executable, "-I", "-c", ALONE, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return Ran(folder, trios, exported, json.loads(done.stdout.splitlines()[-1]))


def _job(base: Path, folder: Path, images: bool) -> dict[str, Any]:
    folders = {key: str(folder / key) for key in ("adapter", "merged")}
    return {"base": str(base), "images": images, **folders}


SPARSE = ["float32-shira", "float32-supertuning", "bfloat16-shira", "bfloat16-supertuning"]
SPARSE += ["tied-shira", "llava-supertuning"]


@pytest.mark.parametrize("name", SPARSE)
def test_a_merged_export_differs_from_ours_where_it_said_it_would(ran: Ran, name: str) -> None:
    converted, trio = ran.exported[name], ran.trios[name.partition("-")[0]]
    merged, tuned, base = ran.merged(name), contents(trio.tuned), contents(trio.base)
    assert merged.keys() == tuned.keys()
    layers = [one for one in tuned if one.endswith("proj.weight") or one == "lm_head.weight"]
    if name.startswith("llava"):
        layers = [one for one in tuned if not torch.equal(bits(merged[one]), bits(base[one]))]
        assert "multi_modal_projector.linear_1.weight" in layers
    wrong = sum(int((bits(merged[one]) != bits(tuned[one])).sum()) for one in layers)
    assert wrong == counted(converted.losses, "come out otherwise")
    assert wrong > 0  # the checkpoint has values that no sum reaches
    assert wrong < 0.25 * converted.k
    adapter = trio.open()
    others = [one for one in tuned if one not in layers]
    assert all(torch.equal(bits(merged[one]), bits(base[one])) for one in others)
    assert counted(converted.losses, "holds linear layers alone") == sum(map(adapter.count, others))
    assert converted.k == adapter.count() - sum(map(adapter.count, others))


@pytest.mark.parametrize("name", [*SPARSE, "float32-lora"])
def test_peft_loads_an_export_without_a_word(ran: Ran, name: str) -> None:
    assert ran.said[name]["warnings"] == []


@pytest.mark.parametrize("name", SPARSE)
def test_an_unmerged_export_computes_with_the_merged_weights(ran: Ran, name: str) -> None:
    assert ran.said[name]["forward"]


@pytest.mark.parametrize("name", SPARSE)
def test_an_export_comes_back_as_what_peft_makes_of_it(ran: Ran, name: str, tmp_path: Path) -> None:
    base = ran.trios[name.partition("-")[0]].base
    converted = import_(ran.folder / name / "adapter", base, tmp_path / "back")
    adapter = SparseAdapter.load(converted.folder)
    assert same_bits(applied(adapter, base), ran.merged(name))
    assert adapter.result_state()
    dropped = counted(converted.losses, "are left out")
    assert dropped + converted.k == ran.exported[name].k


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", ["shira", "supertuning"])
def test_an_import_applied_is_pefts_merge_bit_for_bit(
    ran: Ran, dtype: str, format: str, tmp_path: Path
) -> None:
    source, base = ran.folder / f"made-{dtype}-{format}" / "adapter", ran.trios[dtype].base
    assert detect(source) == format
    converted = import_(source, base, tmp_path / "adapter")
    adapter = SparseAdapter.load(converted.folder)
    adapter.check()
    adapter.verify(base)
    assert same_bits(applied(adapter, base), ran.merged(f"made-{dtype}-{format}"))
    stored = load_file(source / "adapter_model.safetensors")
    listed = sum(int(one.count_nonzero()) for key, one in stored.items() if "indices" not in key)
    assert listed == converted.k + counted(converted.losses, "are left out")
    assert converted.k == adapter.count() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_imported_lora_is_its_merge_in_the_dtype_of_the_base(
    ran: Ran, dtype: str, tmp_path: Path
) -> None:
    source, base = ran.folder / f"made-{dtype}-lora" / "adapter", ran.trios[dtype].base
    converted = import_(source, base, tmp_path / "adapter")
    ours = applied(SparseAdapter.load(converted.folder), base)
    theirs, before = ran.merged(f"made-{dtype}-lora"), contents(base)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-2, atol=1e-6)
    moved = sum(int((weight != before[name]).sum()) for name, weight in theirs.items())
    assert converted.k == pytest.approx(moved, rel=1e-2)


def test_an_exported_lora_merges_into_the_residual_it_states(ran: Ran) -> None:
    converted, trio = ran.exported["float32-lora"], ran.trios["float32"]
    merged, tuned, base = ran.merged("float32-lora"), contents(trio.tuned), contents(trio.base)
    assert "model.layers.0.self_attn.q_proj.weight" in converted.residuals
    for name, residual in converted.residuals.items():
        delta = tuned[name] - base[name]
        missed = (merged[name] - tuned[name]).norm() / delta.norm()
        assert float(missed) == pytest.approx(residual, rel=1e-2, abs=1e-4)
        assert 0 < residual < 1
