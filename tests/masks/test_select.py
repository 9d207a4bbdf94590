"""Selection from models in memory and checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from sparseopd.errors import MaskError, MaskMismatchError, PairError
from sparseopd.masks import Mask, select, summarize_update
from sparseopd.pairs import tensors
from tests.conftest import make_moe, make_qwen3


def update(base: Qwen3ForCausalLM, tuned: Qwen3ForCausalLM) -> dict[str, torch.Tensor]:
    theirs = dict(tuned.named_parameters())
    return {
        name: (theirs[name] - weight).detach().abs() for name, weight in base.named_parameters()
    }


@pytest.mark.parametrize("density", [1e-4, 0.01, 0.1, 0.5, 1.0])
def test_topk_is_the_brute_force_choice(
    qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM, density: float
) -> None:
    mask = select(qwen3, moved, selector="topk", density=density)
    deltas = update(qwen3, moved)
    flat = torch.cat([deltas[name].reshape(-1) for name in mask.names])
    k = round(density * len(flat))
    assert mask.count() == k
    chosen = torch.cat([mask[name].reshape(-1) for name in mask.names])
    smallest = torch.topk(flat, k).values[-1] if k else torch.tensor(float("inf"))
    assert bool((flat[chosen] >= smallest).all()) and bool((flat[~chosen] <= smallest).all())


def test_threshold_is_strict(qwen3: Qwen3ForCausalLM) -> None:
    tuned = make_qwen3()
    with torch.no_grad():
        tuned.model.norm.weight[:3] += torch.tensor([0.5, 0.25, 0.125])
    mask = select(qwen3, tuned, selector="threshold", threshold=0.25)
    assert mask.count() == 1 and mask["model.norm.weight"][0]
    assert select(qwen3, tuned, selector="threshold", threshold=0.0).count() == 3


def test_random_is_exact_uniform_and_seeded(qwen3: Qwen3ForCausalLM) -> None:
    one, again, other = (
        select(qwen3, selector="random", density=0.2, seed=seed) for seed in (1, 1, 2)
    )
    assert one.count() == round(0.2 * one.numel()) and one == again and one != other
    assert one.density("model.embed_tokens.weight") == pytest.approx(0.2, abs=0.05)


def test_random_like_matches_every_tensor(qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM) -> None:
    mask = select(qwen3, moved, density=0.1)
    random = select(qwen3, selector="random", like=mask, seed=5)
    assert [random.count(name) for name in mask.names] == [mask.count(name) for name in mask.names]
    assert random.jaccard(mask) < 0.2 and random.provenance.settings["like"] == mask.digest()


def test_random_like_refuses_what_it_cannot_match(qwen3: Qwen3ForCausalLM) -> None:
    foreign = Mask.from_tensors({"elsewhere": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(MaskMismatchError, match="lacks 1 of them"):
        select(qwen3, selector="random", like=foreign)
    larger = Mask.from_tensors({"model.norm.weight": torch.ones(64, dtype=torch.bool)})
    with pytest.raises(MaskMismatchError, match=r"\(64,\) in the mask and \(32,\)"):
        select(qwen3, selector="random", like=larger)
    norm = Mask.from_tensors({"model.norm.weight": torch.ones(32, dtype=torch.bool)})
    with pytest.raises(MaskError, match="scope leaves out"):
        select(qwen3, selector="random", like=norm, scope=["*.mlp.*"])


def test_a_head_repeated_on_disk_is_still_tied(tmp_path: Path) -> None:
    model = make_qwen3(tied=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    streamed = select(tmp_path, selector="random", density=0.1)
    assert "lm_head.weight" not in streamed.names
    streamed.verify(model)
    assert streamed == select(model, selector="random", density=0.1)


def test_scope_limits_the_choice_and_the_count(
    qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM
) -> None:
    mask = select(qwen3, moved, density=0.5, scope=["*.mlp.*"])
    inside = [name for name in mask.names if ".mlp." in name]
    assert mask.count() == round(0.5 * sum(mask.numel(name) for name in inside))
    assert all(mask.count(name) == 0 for name in mask.names if name not in inside)
    with pytest.raises(MaskError, match="no tensor matches 'nothing'"):
        select(qwen3, moved, scope=["nothing"])


def test_disk_and_memory_agree(
    tmp_path: Path, qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM
) -> None:
    qwen3.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    moved.save_pretrained(tmp_path / "tuned")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    streamed = select(tmp_path / "base", tmp_path / "tuned", density=0.1)
    assert streamed == select(qwen3, moved, density=0.1)
    streamed.verify(qwen3)
    streamed.verify(tmp_path / "base")


def test_experts_are_masked_under_their_names_on_disk(tmp_path: Path) -> None:
    make_moe().save_pretrained(tmp_path / "moe")
    model = type(make_moe()).from_pretrained(tmp_path / "moe")
    on_disk = select(tmp_path / "moe", selector="random", density=0.3)
    assert "model.layers.0.mlp.experts.2.up_proj.weight" in on_disk.names
    assert on_disk == select(model, selector="random", density=0.3)
    on_disk.verify(model)


def test_an_update_that_is_not_finite_is_named(
    qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM
) -> None:
    with torch.no_grad():
        moved.model.norm.weight[3] = float("nan")
    with pytest.raises(MaskError, match=r"model\.norm\.weight has values that are not numbers"):
        select(qwen3, moved)


def test_models_that_are_no_siblings(qwen3: Qwen3ForCausalLM) -> None:
    with pytest.raises(MaskError, match=r"lacks model.layers.0.mlp.down_proj.weight"):
        select(qwen3, make_moe())


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"selector": "best"}, "selector is 'best', and should be 'topk'"),
        ({"density": 0.0}, "density is 0.0"),
        ({"density": 1.5}, "density is 1.5"),
        ({"k": 0}, "k is 0"),
        ({"k": 16_865}, "the scope has 16,864 coordinates"),
        ({"k": 5, "density": 0.1}, "give one of them"),
        ({"threshold": 1e-5}, "threshold does nothing with the selector topk"),
        ({"rank": 0.1}, "choose principal or off-principal or off-principal-or-low"),
        ({"best": 1}, "no setting 'best'"),
        ({"budget": "layer"}, "budget is 'layer'"),
        ({"selector": "topk-per-tensor", "budget": "global"}, "use topk"),
        ({"selector": "threshold", "density": 0.1}, "takes all that fit"),
        ({"selector": "threshold", "threshold": float("nan")}, "finite"),
        ({"selector": "threshold", "threshold": -1.0}, "greater than or equal to 0"),
        ({"selector": "threshold"}, "chose none of 16,864 coordinates"),
        ({"density": 1e-9}, "rounds to none"),
        ({"selector": "random"}, "looks at the base alone"),
        ({"exclude": ["*"]}, "nothing is left in scope"),
        ({"selector": "random", "match": "tensor"}, "looks at the base alone"),
    ],
)
def test_settings_that_do_not_fit(qwen3: Qwen3ForCausalLM, settings: dict, sentence: str) -> None:
    with pytest.raises(MaskError, match=sentence):
        select(qwen3, make_qwen3(), **settings)


def test_update_based_selectors_need_an_update(qwen3: Qwen3ForCausalLM) -> None:
    with pytest.raises(MaskError, match="needs a tuned model beside the base"):
        select(qwen3)


def test_summary_of_a_known_update(qwen3: Qwen3ForCausalLM) -> None:
    tuned = make_qwen3()
    with torch.no_grad():
        tuned.model.norm.weight[:2] += torch.tensor([3.0, 4.0])
    mask = Mask.from_tensors(
        {
            name: torch.zeros_like(weight, dtype=torch.bool)
            for name, weight in qwen3.named_parameters()
        }
        | {"model.norm.weight": torch.arange(32) == 1}
    )
    summary = summarize_update(qwen3, tuned, mask)
    norm = (
        sum(float(weight.detach().double().square().sum()) for weight in qwen3.parameters()) ** 0.5
    )
    assert summary["relative_norm"] == pytest.approx(5 / norm)
    assert summary["energy_in_mask"] == pytest.approx(16 / 25)
    assert summary["smallest_kept"] == 4.0 and summary["largest_dropped"] == 3.0
    assert summary["share_at_most"]["0"] == pytest.approx(1 - 2 / summary["numel"])


def test_a_base_that_did_not_move_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    for selector in ("topk", "topk-relative", "topk-per-tensor"):
        with pytest.raises(MaskError, match=r"none of 16,864 coordinates moved"):
            select(qwen3, make_qwen3(), selector=selector)
    tuned = make_qwen3()
    with torch.no_grad():
        tuned.model.norm.weight[:5] += 1.0
    mask = select(qwen3, tuned, k=8)
    assert mask.provenance.idle == 3 and mask.count("model.norm.weight") >= 5


def test_random_like_refuses_a_mask_of_other_weights(qwen3: Qwen3ForCausalLM) -> None:
    other = select(make_qwen3(seed=5), selector="random")
    with pytest.raises(MaskMismatchError, match="made for other weights"):
        select(qwen3, selector="random", like=other)


def test_matrices_are_needed_for_singular_vectors(qwen3: Qwen3ForCausalLM) -> None:
    with pytest.raises(MaskError, match="chooses from matrices, and the scope has none"):
        select(qwen3, selector="principal", include=["norm"])


def test_seeds_out_of_range(qwen3: Qwen3ForCausalLM) -> None:
    with pytest.raises(MaskError, match="seed is -1"):
        select(qwen3, selector="random", seed=-1)


@pytest.mark.parametrize("selector", ["threshold", "changed"])
def test_rules_name_what_is_not_a_number(
    qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM, selector: str
) -> None:
    with torch.no_grad():
        moved.model.norm.weight[3] = float("nan")
    with pytest.raises(MaskError, match=r"model\.norm\.weight has values that are not numbers"):
        select(qwen3, moved, selector=selector)


@pytest.mark.parametrize("match", ["tensor", "magnitude"])
def test_random_like_a_mask_of_some_of_the_tensors(qwen3: Qwen3ForCausalLM, match: str) -> None:
    part = Mask.from_tensors({"model.norm.weight": torch.arange(32) < 7})
    drawn = select(qwen3, selector="random", like=part, match=match)
    assert drawn.count() == drawn.count("model.norm.weight") == 7 and len(drawn.names) > 1


@pytest.mark.parametrize("selector", ["principal", "random", "low-magnitude"])
def test_maps_are_closed_while_other_threads_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qwen3: Qwen3ForCausalLM, selector: str
) -> None:
    monkeypatch.setattr("sparseopd.pairs.folder.RESIDENT_BYTES", 1000)
    monkeypatch.setattr("sparseopd.masks.comparison.pieces", lambda n: tensors.pieces(n, 64))
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        qwen3.save_pretrained(tmp_path, max_shard_size="20KB")
        assert select(tmp_path, selector=selector) == select(qwen3, selector=selector)
    finally:
        torch.set_num_threads(before)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(4, 4, dtype=torch.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(PairError, match=r"a.weight .* holds I32 numbers, as quantized weights do"):
        select(tmp_path, selector="random")


def test_buffers_are_no_weights(tmp_path: Path) -> None:
    content = {
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "rotary_emb.inv_freq": torch.ones(4),
        "position_ids": torch.arange(4),
        "h.0.attn.c_attn.bias": torch.ones(8),
    }
    save_file(content, tmp_path / "model.safetensors")
    assert select(tmp_path, selector="random", k=2).names == ["h.0.attn.c_attn.bias"]


def test_a_scope_is_a_list(qwen3: Qwen3ForCausalLM) -> None:
    with pytest.raises(MaskError, match="give a list of patterns"):
        select(qwen3, selector="random", scope="ffn")


def test_low_precision_floats(tmp_path: Path) -> None:
    base = {"a.weight": torch.linspace(-2, 2, 256).reshape(16, 16).to(torch.float8_e4m3fn)}
    save_file(base, tmp_path / "model.safetensors")
    for selector in ("low-magnitude", "principal", "random"):
        assert select(tmp_path, selector=selector, density=0.25).count() == 64
