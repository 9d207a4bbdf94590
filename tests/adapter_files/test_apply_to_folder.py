"""A base with adapters applied is the tuned checkpoint, bit for bit, or nothing is written at all."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3ForCausalLM

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.apply import apply_to_folder
from sparseopd.adapter_files.extract import extract
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import Provenance
from sparseopd.errors import (
    AdapterError,
    AdapterFileError,
    AdapterMismatchError,
    PairError,
    RunFolderError,
)
from sparseopd.masks.bitmap import Bitmap
from sparseopd.pairs import tensor_hash
from tests.adapter_files.sibling_folders import (
    Tensors,
    drawn_bits,
    full_disk,
    moved,
    read_folder,
    same_bits,
    siblings,
    write_folder,
)


def steps(path: Path, count: int) -> list[Path]:
    """Write checkpoints of a run, each a little further than the last, and the patches between them."""
    tensors = {
        "embed": drawn_bits(0, torch.bfloat16, (30, 8)),
        "norm": drawn_bits(1, torch.float32, (8,)),
        "frozen": drawn_bits(2, torch.float16, (9,)),
    }
    write_folder(path / "step-0", tensors)
    for step in range(1, count + 1):
        tensors = tensors | {"embed": moved(tensors["embed"], 10 * step, 0.2)}
        if step % 2:
            tensors["norm"] = moved(tensors["norm"], 10 * step, 0.5)
        write_folder(path / f"step-{step}", tensors, shards=step)
        extract(path / f"step-{step - 1}", path / f"step-{step}", path / f"patch-{step}")
    return [path / f"patch-{step}" for step in range(1, count + 1)]


def contents(path: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(one.name for one in path.iterdir())


def one_adapter(
    path: Path, tensors: dict[str, tuple[Tensor, Tensor]], hashes: dict[str, tuple[str, str]]
) -> Path:
    """Write an adapter of masks and values, with hashes of our choice."""
    with AdapterWriter(path) as writer:
        for name, (chosen, values) in sorted(tensors.items()):
            before, after = hashes.get(name, (None, None))
            bitmap = Bitmap.pack(name, chosen)
            writer.add(name, bitmap, values, base_hash=before, result_hash=after)
        writer.finish(Provenance(base="made by hand"))
    return path


@given(siblings(), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_tuned_checkpoint_comes_back(
    pair: tuple[Tensors, Tensors], base_shards: int, tuned_shards: int
) -> None:
    base, tuned = pair
    with TemporaryDirectory() as name:
        path = Path(name)
        write_folder(path / "base", base, min(base_shards, len(base)))
        write_folder(path / "tuned", tuned, min(tuned_shards, len(tuned)))
        made = extract(path / "base", path / "tuned", path / "adapter")
        done = apply_to_folder(path / "base", [path / "adapter"], path / "out")
        assert same_bits(read_folder(path / "out"), tuned)
        assert same_bits(read_folder(path / "base"), base)
        assert (done.k, done.adapters, done.rounded, done.verified) == (made.k, 1, 0, True)
        assert contents(path / "out") == contents(path / "base") and not done.left_out
        assert contents(path) == ["adapter", "base", "out", "tuned"]


@pytest.mark.parametrize("threads", [1, 4])
def test_tensors_longer_than_a_block_are_rewritten_whole(tmp_path: Path, threads: int) -> None:
    base = {
        name: drawn_bits(number, torch.bfloat16, (1_100_003,)) for number, name in enumerate("abc")
    }
    tuned = {
        name: moved(one, 7, share)
        for (name, one), share in zip(base.items(), (0.1, 0.9, 1e-5), strict=True)
    }
    write_folder(tmp_path / "base", base)
    write_folder(tmp_path / "tuned", tuned)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter")
        apply_to_folder(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "out")
    finally:
        torch.set_num_threads(before)
    assert same_bits(read_folder(tmp_path / "out"), tuned)


def test_a_chain_of_patches_gives_the_last_checkpoint(tmp_path: Path) -> None:
    patches = steps(tmp_path, 4)
    done = apply_to_folder(tmp_path / "step-0", patches, tmp_path / "out")
    assert same_bits(read_folder(tmp_path / "out"), read_folder(tmp_path / "step-4"))
    counts = sum(SparseAdapter.load(patch).count() for patch in patches)
    assert (done.k, done.adapters, done.tensors) == (counts, 4, 2)
    apply_to_folder(tmp_path / "step-1", patches[1:3], tmp_path / "middle")
    assert same_bits(read_folder(tmp_path / "middle"), read_folder(tmp_path / "step-3"))


@pytest.mark.parametrize(
    ("order", "patch", "tensors"),
    [
        ([1, 3, 4], "patch-3", {"embed"}),
        ([1, 2, 2], "patch-2", {"embed"}),
        ([2, 1, 3, 4], "patch-1", {"embed", "norm"}),
        ([4, 3, 2, 1], "patch-3", {"embed", "norm"}),
    ],
)
def test_a_gap_or_another_order_is_refused(
    tmp_path: Path, order: list[int], patch: str, tensors: set[str]
) -> None:
    patches = steps(tmp_path, 4)
    before = contents(tmp_path)
    with pytest.raises(AdapterMismatchError, match="missing, or in another order") as refused:
        apply_to_folder(
            tmp_path / "step-0", [patches[number - 1] for number in order], tmp_path / "out"
        )
    assert f"{tmp_path / patch} was made for other weights" in str(refused.value)
    assert set(refused.value.tensors) == tensors
    assert contents(tmp_path) == before


@pytest.mark.parametrize("patch", [2, 4])
def test_a_chain_that_starts_too_late_names_every_tensor(tmp_path: Path, patch: int) -> None:
    patches = steps(tmp_path, 4)
    before = contents(tmp_path)
    with pytest.raises(AdapterMismatchError, match="does not fit: embed") as refused:
        apply_to_folder(tmp_path / "step-0", patches[patch - 1 :], tmp_path / "out")
    assert refused.value.tensors == {"embed": "other values", "norm": "other values"}
    assert contents(tmp_path) == before


def test_a_base_that_differs_where_nothing_is_written_is_refused(tmp_path: Path) -> None:
    patch = steps(tmp_path, 1)[0]
    tensors = read_folder(tmp_path / "step-0")
    tensors["frozen"].view(torch.int16)[3] ^= 1
    write_folder(tmp_path / "other", tensors)
    with pytest.raises(AdapterMismatchError, match=r"step-0, and does not fit: frozen") as refused:
        apply_to_folder(tmp_path / "other", [patch], tmp_path / "out")
    assert refused.value.tensors == {"frozen": "other values"} and not (tmp_path / "out").exists()


def test_a_base_of_another_architecture_is_refused(tmp_path: Path) -> None:
    patch = steps(tmp_path, 1)[0]
    tensors = read_folder(tmp_path / "step-0")
    write_folder(tmp_path / "fewer", {"embed": tensors["embed"], "norm": tensors["norm"]})
    with pytest.raises(AdapterMismatchError, match=r"frozen \(missing\)"):
        apply_to_folder(tmp_path / "fewer", [patch], tmp_path / "out")
    tensors["norm"] = torch.ones(2, 4)
    write_folder(tmp_path / "shaped", tensors)
    with pytest.raises(AdapterMismatchError, match=r"norm \(\(2, 4\) instead of \(8,\)\)"):
        apply_to_folder(tmp_path / "shaped", [patch], tmp_path / "out")


def test_a_damaged_patch_in_a_chain_leaves_nothing(tmp_path: Path) -> None:
    patches = steps(tmp_path, 3)
    before = contents(tmp_path)
    file = patches[1] / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[8 + int.from_bytes(content[:8], "little") + 3] ^= 16
    file.write_bytes(content)
    with pytest.raises(AdapterFileError, match=r"patch-2.* damaged"):
        apply_to_folder(tmp_path / "step-0", patches, tmp_path / "out")
    assert contents(tmp_path) == before


def test_damage_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = steps(tmp_path, 2)
    file = patches[1] / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[8 + int.from_bytes(content[:8], "little") + 3] ^= 16
    file.write_bytes(content)
    monkeypatch.setattr(
        "sparseopd.adapter_files.apply.folder_written_whole", lambda _: pytest.fail("it wrote")
    )
    with pytest.raises(AdapterFileError, match=r"patch-2.* damaged"):
        apply_to_folder(tmp_path / "step-0", patches, tmp_path / "out")


@pytest.mark.parametrize(
    "digest", ["int64:0", "bool:0", "float4_e2m1fn_x2:0", "complex64:0", "nn:0", "", ":", "x"]
)
def test_a_hash_of_no_weight_is_never_met(tmp_path: Path, digest: str) -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(3)}
    write_folder(tmp_path / "base", base)
    values = {"a": (base["a"] < 2, torch.tensor([7.0, 8.0])), "b": (base["b"] < 0, torch.empty(0))}
    hashes = {"a": (digest or "-", digest or "-"), "b": (tensor_hash(base["b"]), "")}
    adapter = one_adapter(tmp_path / "adapter", values, hashes)
    with pytest.raises(AdapterMismatchError, match=r"a \(other values\)"):
        apply_to_folder(tmp_path / "base", [adapter], tmp_path / "out")
    hashes["a"] = (tensor_hash(base["a"]), digest or "-")
    adapter = one_adapter(tmp_path / "promised", values, hashes)
    with pytest.raises(AdapterFileError, match="promised is damaged in a"):
        apply_to_folder(tmp_path / "base", [adapter], tmp_path / "out")
    assert contents(tmp_path) == ["adapter", "base", "promised"]


def test_one_adapter_on_a_wrong_base_is_no_patch(tmp_path: Path) -> None:
    patches = steps(tmp_path, 3)
    for wrong, is_chain in ([patches[1]], False), (patches[1:], True):
        with pytest.raises(AdapterMismatchError) as refused:
            apply_to_folder(tmp_path / "step-0", wrong, tmp_path / "out")
        assert ("after the patches that came before" in str(refused.value)) is is_chain


def test_values_that_do_not_give_the_promised_result_are_refused(tmp_path: Path) -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(3)}
    write_folder(tmp_path / "base", base)
    values = {"a": (base["a"] < 2, torch.tensor([7.0, 8.0])), "b": (base["b"] < 0, torch.empty(0))}
    promised = {"a": (tensor_hash(base["a"]), tensor_hash(base["a"])), "b": (None, None)}
    adapter = one_adapter(tmp_path / "adapter", values, promised)
    with pytest.raises(AdapterFileError, match="adapter is damaged in a"):
        apply_to_folder(tmp_path / "base", [adapter], tmp_path / "out")
    assert contents(tmp_path) == ["adapter", "base"]


def test_without_hashes_only_shapes_are_checked(tmp_path: Path) -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(3)}
    write_folder(tmp_path / "base", base)
    adapter = one_adapter(
        tmp_path / "adapter", {"a": (base["a"] < 2, torch.tensor([7.0, 8.0]))}, {}
    )
    done = apply_to_folder(tmp_path / "base", [adapter], tmp_path / "out")
    assert read_folder(tmp_path / "out")["a"].tolist() == [7, 8, 2, 3, 4, 5]
    assert (done.k, done.tensors, done.verified) == (2, 1, False)


def test_a_base_held_in_a_wider_dtype_is_verified_and_exact(tmp_path: Path) -> None:
    base = {"a": torch.linspace(-2, 2, 50).bfloat16(), "b": torch.ones(3).bfloat16()}
    tuned = {"a": moved(base["a"].abs(), 0, 0.0), "b": base["b"]}
    for name, tensors in ("base", base), ("tuned", tuned):
        write_folder(tmp_path / name, tensors)
    extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter")
    write_folder(tmp_path / "wide", {name: one.float() for name, one in base.items()})
    done = apply_to_folder(tmp_path / "wide", [tmp_path / "adapter"], tmp_path / "out")
    assert same_bits(
        read_folder(tmp_path / "out"), {name: one.float() for name, one in tuned.items()}
    )
    assert done.verified and not done.rounded
    write_folder(tmp_path / "moved", {name: one.float() + 1e-5 for name, one in base.items()})
    with pytest.raises(AdapterMismatchError, match=r"a .other values.*b .other values"):
        apply_to_folder(tmp_path / "moved", [tmp_path / "adapter"], tmp_path / "no")


def test_values_too_precise_for_the_base_are_rounded_and_counted(tmp_path: Path) -> None:
    base = {"a": torch.ones(4)}
    write_folder(tmp_path / "base", {"a": base["a"].bfloat16()})
    result = {"a": (tensor_hash(base["a"]), tensor_hash(torch.tensor([0.1, 3.0, 1.0, 1.0])))}
    values = {"a": (torch.arange(4) < 2, torch.tensor([0.1, 3.0]))}
    adapter = one_adapter(tmp_path / "adapter", values, result)
    done = apply_to_folder(tmp_path / "base", [adapter], tmp_path / "out")
    assert (done.k, done.rounded) == (2, 1)
    expected = torch.tensor([0.1, 3.0, 1.0, 1.0]).bfloat16()
    assert torch.equal(read_folder(tmp_path / "out")["a"], expected)


def test_what_an_adapter_does_not_know_keeps_its_bits(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(4.0),
        "rotary.inv_freq": torch.rand(7),
        "position_ids": torch.arange(9),
        "flags": torch.tensor([True, False]),
    }
    tuned = tensors | {"a": torch.tensor([0.0, 1.0, 2.0, 9.0])}
    write_folder(tmp_path / "base", tensors)
    write_folder(tmp_path / "tuned", tuned)
    extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter")
    apply_to_folder(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "out")
    weights = [tmp_path / name / "model.safetensors" for name in ("out", "tuned")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("repeats", [True, False])
def test_a_head_repeated_on_disk_follows_its_embedding(
    tmp_path: Path, qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM, repeats: bool
) -> None:
    qwen3.save_pretrained(tmp_path / "base")
    moved.save_pretrained(tmp_path / "tuned")
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    head = weights["model.embed_tokens.weight"].clone() if repeats else torch.ones(40, 32)
    save_file(weights | {"lm_head.weight": head}, file, {"format": "pt"})
    made = extract(tmp_path / "base", tmp_path / "tuned", tmp_path / "adapter")
    done = apply_to_folder(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = found["model.embed_tokens.weight"] if repeats else head
    assert torch.equal(found.pop("lm_head.weight"), expected) and done.k == made.k
    assert same_bits(found, load_file(tmp_path / "tuned" / "model.safetensors"))


def test_files_of_the_model_come_along_and_code_stays_behind(tmp_path: Path) -> None:
    patch = steps(tmp_path, 1)[0]
    base = tmp_path / "step-0"
    (tmp_path / "secret.txt").write_text("not the model's")
    (base / "out.txt").symlink_to(tmp_path / "secret.txt")
    (base / "vocab.txt").symlink_to("tokenizer.json")
    (base / "additional_chat_templates").mkdir()
    (base / "checkpoint-5").mkdir()
    files = ["tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "LICENSE"]
    files += ["additional_chat_templates/tool.jinja"]
    others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "training_args.pt", "x.pkl"]
    others += ["modeling.py", "README.md", "consolidated.safetensors"]
    for name in [*files, *others, "checkpoint-5/config.json", ".hidden.json"]:
        (base / name).write_text(name)
    done = apply_to_folder(base, [patch], tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert found == {*files, "vocab.txt", "config.json", "model.safetensors"}
    assert done.left_out == sorted([*others, "checkpoint-5/", "out.txt"])
    assert (tmp_path / "out" / "vocab.txt").read_text() == "tokenizer.json"


def test_the_links_of_the_hub_cache_are_resolved(tmp_path: Path) -> None:
    patch = steps(tmp_path, 1)[0]
    blobs, snapshot = tmp_path / "models--a" / "blobs", tmp_path / "models--a" / "snapshots" / "c0"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in sorted((tmp_path / "step-0").iterdir()):
        path.rename(blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    done = apply_to_folder(snapshot, [patch], tmp_path / "out")
    assert contents(tmp_path / "out") == ["config.json", "model.safetensors"]
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert done.left_out == [] and (blobs / "blob-model.safetensors").is_file()
    assert same_bits(read_folder(tmp_path / "out"), read_folder(tmp_path / "step-1"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(100_000), "b": torch.ones(3)}
    write_folder(tmp_path / "base", tensors)
    values = {"a": (torch.arange(100_000) < 2, torch.ones(2))}
    adapter = one_adapter(tmp_path / "adapter", values, {})
    with (
        full_disk(1 << 17),
        pytest.raises(RunFolderError, match=r"cannot write .*out: File too large"),
    ):
        apply_to_folder(tmp_path / "base", [adapter], tmp_path / "out")
    assert contents(tmp_path) == ["adapter", "base"]


def test_places_that_cannot_be_written_are_refused_before_work(tmp_path: Path) -> None:
    patch = steps(tmp_path, 1)[0]
    base = tmp_path / "step-0"
    for output in base, patch:
        with pytest.raises(RunFolderError, match="already holds files"):
            apply_to_folder(base, [patch], output)
    with pytest.raises(RunFolderError, match="cannot write"):
        apply_to_folder(base, [patch], tmp_path / "absent" / "out")
    with pytest.raises(AdapterError, match="no adapter was given"):
        apply_to_folder(base, [], tmp_path / "out")
    with pytest.raises(AdapterError, match="holds no adapter"):
        apply_to_folder(base, [base], tmp_path / "out")
    with pytest.raises(PairError, match="is an adapter, not a model"):
        apply_to_folder(patch, [patch], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    apply_to_folder(base, [patch], tmp_path / "empty")
    assert contents(tmp_path / "empty") == contents(base)


def test_progress_ends_at_the_size_of_the_weights(tmp_path: Path) -> None:
    patch = steps(tmp_path, 1)[0]
    calls: list[tuple[int, int]] = []

    def note(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        assert (stage, unit) == ("apply", "bytes")
        calls.append((done, total))

    done = apply_to_folder(tmp_path / "step-0", [patch], tmp_path / "out", progress=note)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert calls[-1] == (size, size) and done.bytes == size and calls == sorted(calls)
