"""Checkpoint names and model parameters are two views of the same coordinates."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sparseopd.errors import PairError
from sparseopd.masks import select
from sparseopd.pairs import checkpoint_pieces, gather_positions, open_tensors, tensor_hash, tiny
from sparseopd.pairs.parameters import piece_positions
from sparseopd.pairs.tensors import matches_hash, stored_hash
from tests.conftest import make_moe, make_qwen3
from tests.masks.held import Held


def reloaded(name: str, folder: Path) -> PreTrainedModel:
    if name == "llava":
        return AutoModelForImageTextToText.from_pretrained(tiny.folder("tiny-digits") / "student")
    model = make_qwen3(tied=name != "untied") if name != "moe" else make_moe()
    model.save_pretrained(folder / "first")
    return type(model).from_pretrained(folder / "first")


@pytest.mark.parametrize("name", ["tied", "untied", "moe", "llava"])
def test_pieces_are_what_save_pretrained_writes(name: str, tmp_path: Path) -> None:
    """Notices when transformers changes `revert_weight_conversion`."""
    model = reloaded(name, tmp_path)
    model.save_pretrained(tmp_path / "saved")
    memory, disk = open_tensors(model), open_tensors(tmp_path / "saved")
    assert memory.keys() == disk.keys()
    for tensor in memory.keys():
        assert memory.shape(tensor) == disk.shape(tensor)
        assert torch.equal(memory[tensor], disk[tensor]), tensor


@pytest.mark.parametrize("name", ["tied", "moe", "llava"])
def test_positions_lead_back_to_the_pieces(name: str, tmp_path: Path) -> None:
    model = reloaded(name, tmp_path)
    mask = select(model, selector="random", density=0.3)
    for parameter, weight in model.named_parameters():
        flags = gather_positions(model, parameter, weight.shape, lambda piece: mask[piece])
        for piece, there in checkpoint_pieces(model, parameter, flags).items():
            assert torch.equal(there, mask[piece])


@pytest.mark.parametrize("name", ["tied", "untied", "moe", "llava"])
def test_values_written_piece_by_piece_are_saved_in_each_piece_s_order(
    name: str, tmp_path: Path
) -> None:
    model = reloaded(name, tmp_path)
    mask, written = select(model, selector="random", density=0.3), {}
    before = {piece: open_tensors(model)[piece].clone() for piece in mask.names}
    for parameter, weight in model.named_parameters():
        held = piece_positions(model, parameter, weight.shape, lambda piece: mask[piece])
        assert held.keys() <= checkpoint_pieces(model, parameter, weight.detach()).keys()
        for piece, positions in held.items():
            written[piece] = torch.randn(len(positions)).to(weight.dtype)
            weight.detach().view(-1)[positions] = written[piece]
    model.save_pretrained(tmp_path / "saved")
    after = open_tensors(tmp_path / "saved")
    assert written.keys() == {piece for piece in mask.names if mask.count(piece)}
    for piece in mask.names:
        chosen = mask[piece]
        assert torch.equal(after[piece][chosen], written.get(piece, before[piece][:0].view(-1))), (
            piece
        )
        assert torch.equal(after[piece][~chosen], before[piece][~chosen]), piece


def test_one_parameter_may_hold_many_pieces_or_a_renamed_one(tmp_path: Path) -> None:
    moe, llava = reloaded("moe", tmp_path), reloaded("llava", tmp_path)
    experts = {len(held) for held in every_position(moe).values()}
    assert experts == {1, 4, 8}
    assert any(parameter not in held for parameter, held in every_position(llava).items())


def every_position(model: PreTrainedModel) -> dict[str, dict[str, torch.Tensor]]:
    """Positions of all coordinates, which together are each parameter's once."""
    tensors, found = open_tensors(model), {}
    for name, weight in model.named_parameters():
        found[name] = piece_positions(
            model, name, weight.shape, lambda piece: torch.ones(tensors.shape(piece)).bool()
        )
        together = torch.cat(list(found[name].values()))
        assert torch.equal(together.sort().values, torch.arange(weight.numel()))
    return found


@pytest.mark.parametrize("module", [torch.nn.Linear(3, 2), make_qwen3()])
def test_positions_of_an_unchanged_parameter_are_the_mask_s(module: torch.nn.Module) -> None:
    name, weight = next(iter(module.named_parameters()))
    flags = torch.zeros(weight.shape, dtype=torch.bool)
    flags[0, 1] = flags[1, 0] = True
    found = piece_positions(module, name, weight.shape, {name: flags}.get)
    assert found.keys() == {name}
    assert torch.equal(found[name], torch.tensor([1, weight.shape[1]]))


@pytest.mark.parametrize("name", ["untied", "moe"])
def test_pieces_without_a_chosen_coordinate_have_no_positions(name: str, tmp_path: Path) -> None:
    model = reloaded(name, tmp_path)
    tensors = open_tensors(model)
    for parameter, weight in model.named_parameters():
        for read in (lambda _: None, lambda piece: torch.zeros(tensors.shape(piece)).bool()):
            assert piece_positions(model, parameter, weight.shape, read) == {}
        assert piece_positions(model, parameter, torch.Size((0, 3)), lambda _: None) == {}


def test_hashes_tell_dtype_shape_and_bits_apart() -> None:
    zeros = torch.zeros(4)
    others = [
        torch.zeros(4, dtype=torch.bfloat16),
        torch.zeros(2, 2),
        torch.tensor([0.0, 0, 0, -0.0]),
    ]
    assert len({tensor_hash(tensor) for tensor in [zeros, *others]}) == 4
    assert fits(zeros.double(), tensor_hash(zeros))
    assert not fits(zeros + 1e-9, tensor_hash(zeros.bfloat16()))
    assert not fits(zeros, "nonsense:00")


def fits(tensor: torch.Tensor, expected: str) -> bool:
    return matches_hash(Held({"a": tensor}), "a", expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (2, 3, 4)])
def test_a_tensor_read_in_pieces_has_the_hash_of_the_whole(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape).bfloat16()
    with mock.patch("sparseopd.pairs.tensors.PIECE", 2):
        assert stored_hash(Held({"a": tensor}), "a") == tensor_hash(tensor)


@pytest.mark.parametrize(
    "index, sentence",
    [
        ("{", "not an index"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "outside its folder"),
        ('{"weight_map": {"a": "model-00001.safetensors"}}', "cannot read the weights"),
    ],
)
def test_bad_indices_are_refused(tmp_path: Path, index: str, sentence: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(PairError, match=sentence):
        _ = open_tensors(tmp_path)["a"]


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="no safetensors weights"):
        open_tensors(tmp_path)
    with pytest.raises(PairError, match="no model folder"):
        open_tensors(tmp_path / "absent")
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(PairError, match="cannot read the weights"):
        open_tensors(tmp_path)
