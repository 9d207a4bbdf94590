"""Spectra against LAPACK in float64: exact ones, and randomized ones within the error they state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseopd.singular import OVERSAMPLING, as_matrices, decompose, is_matrix, product
from tests.analysis.checkpoints import noise

SHAPES = [(40, 40), (90, 20), (20, 90), (3, 2), (1, 7), (9000, 6)]
"""The last is taller than the blocks of rows that are worked on at once."""


def lapack(matrix: Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


def with_spectrum(values: Tensor, rows: int, seed: int = 0) -> Tensor:
    """A matrix of given singular values in float64, whose vectors are random."""
    left = torch.linalg.qr(noise(rows, len(values), seed=seed).double())[0]
    right = torch.linalg.qr(noise(len(values), len(values), seed=seed + 1).double())[0]
    return left * values @ right.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_spectra_are_lapacks(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = noise(*shape, seed=1).to(dtype)
    found, wanted = decompose(matrix), lapack(matrix)
    assert (found.left, found.right, found.error) == (None, None, None)
    assert found.values.dtype == torch.float64
    np.testing.assert_allclose(found.values.numpy(), wanted, atol=1e-7 * wanted[0], rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_orthonormal_and_belong_to_their_values(shape: tuple[int, int]) -> None:
    matrix, count = noise(*shape, seed=2), min(shape)
    found = decompose(matrix, count)
    assert found.left is not None and found.right is not None
    one = torch.eye(count, dtype=torch.float64)
    for vectors, size in ((found.left, shape[0]), (found.right, shape[1])):
        assert vectors.shape == (size, count)
        torch.testing.assert_close(vectors.T @ vectors, one, atol=1e-10, rtol=0)
    again = found.left * found.values @ found.right.T
    torch.testing.assert_close(again, matrix.double(), atol=1e-10, rtol=0)


def test_leading_vectors_are_lapacks_but_for_their_sign() -> None:
    matrix = noise(60, 40, seed=3)
    found = decompose(matrix, 8)
    left, _, right = np.linalg.svd(matrix.double().numpy())
    assert found.left is not None and found.right is not None
    overlaps = np.abs((left[:, :8] * found.left.numpy()).sum(0))
    np.testing.assert_allclose(overlaps, 1, rtol=1e-10)
    overlaps = np.abs((right[:8].T * found.right.numpy()).sum(0))
    np.testing.assert_allclose(overlaps, 1, rtol=1e-10)


@pytest.mark.parametrize("span", [2, 5, 9])
def test_gram_spectra_agree_with_lapack_to_1e7_of_the_largest(span: int) -> None:
    """Squares in float64 resolve σ down to 3e-8 of σ₁, so the ranks at 1e-5 and 1e-4 are LAPACK's."""
    matrix = with_spectrum(torch.logspace(0, -span, 40, dtype=torch.float64), rows=70)
    found, wanted = decompose(matrix).values.numpy(), lapack(matrix)
    assert np.abs(found - wanted).max() < 1e-7 * wanted[0]
    for tolerance in (1.01e-5, 1.01e-4):
        assert (found > tolerance * found[0]).sum() == (wanted > tolerance * wanted[0]).sum()


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_spectra_do_not_depend_on_the_unit(unit: float) -> None:
    matrix = noise(30, 20, seed=4)
    found, scaled = decompose(matrix).values, decompose((matrix.double() * unit).float()).values
    torch.testing.assert_close(scaled / unit, found, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rows", [30, 200])
def test_vectors_of_a_matrix_without_full_rank_are_orthonormal_too(rows: int) -> None:
    """Where σ is nothing but rounding, Av/σ has no length that means anything."""
    for matrix in (torch.ones(rows, 30), torch.zeros(rows, 30), noise(rows, 2) @ noise(2, 30)):
        found = decompose(matrix, 6)
        assert found.left is not None and found.right is not None
        for vectors in (found.left, found.right):
            norms = vectors.norm(dim=0)
            assert bool(((norms < 1 + 1e-6) & ((norms > 1 - 1e-6) | (norms == 0))).all()), norms


@pytest.fixture
def randomized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseopd.singular.EXACT", 16)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [0, 8, 100])
@pytest.mark.usefixtures("randomized")
def test_randomized_values_lie_within_their_stated_error(count: int, transposed: bool) -> None:
    decaying = torch.logspace(0, -6, 200, dtype=torch.float64)
    flat = torch.linspace(1, 0.5, 200, dtype=torch.float64)
    for number, spectrum in enumerate((decaying, flat)):
        matrix = with_spectrum(spectrum, rows=240, seed=number).float()
        found = decompose(matrix.T if transposed else matrix, count)
        wanted = lapack(matrix)
        assert found.error is not None
        assert len(found.values) == max(count, 64)
        apart = np.abs(found.values.numpy()[:, None] - wanted).min(1)
        assert apart.max() <= (found.error + 1e-6) * wanted[0]  # float32 arithmetic


@pytest.mark.usefixtures("randomized")
def test_the_stated_error_tells_decaying_from_flat_spectra() -> None:
    decaying = torch.logspace(0, -9, 200, dtype=torch.float64)
    flat = torch.linspace(1, 0.9, 200, dtype=torch.float64)
    steep, level = (decompose(with_spectrum(s, rows=240).float()).error for s in (decaying, flat))
    assert steep is not None and level is not None
    assert steep < 1e-3 < 0.02 < level


@pytest.mark.usefixtures("randomized")
def test_randomized_leading_directions_are_right_where_the_spectrum_falls() -> None:
    spectrum = torch.cat([torch.tensor([10.0, 9, 8, 7]), torch.full((196,), 0.1)]).double()
    matrix = with_spectrum(spectrum, rows=240).float()
    found = decompose(matrix, 4)
    np.testing.assert_allclose(found.values[:4].numpy(), [10, 9, 8, 7], rtol=1e-5)
    assert found.left is not None and found.right is not None
    assert found.left.shape == (240, 4) and found.right.shape == (200, 4)
    inside = found.left.T @ product(matrix, found.right)
    torch.testing.assert_close(inside.diagonal(), spectrum[:4], rtol=1e-5, atol=0)


@pytest.mark.usefixtures("randomized")
def test_a_low_rank_matrix_is_found_wholly() -> None:
    matrix = noise(100, 5, seed=1) @ noise(5, 80, seed=2)
    found, wanted = decompose(matrix), lapack(matrix)
    assert found.error is not None and found.error < 1e-5
    np.testing.assert_allclose(found.values[:5].numpy(), wanted[:5], rtol=1e-5)
    assert float(found.values[5]) < 1e-5 * wanted[0]


@pytest.mark.usefixtures("randomized")
def test_the_same_seed_gives_the_same_bits() -> None:
    matrix = noise(150, 120, seed=1)
    one, same, other = (decompose(matrix, 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.values, same.values)
    assert one.left is not None and same.left is not None
    assert torch.equal(one.left, same.left)
    assert not torch.equal(one.values, other.values)


@pytest.mark.usefixtures("randomized")
@pytest.mark.parametrize("size", [17, 64, 64 + OVERSAMPLING])
def test_small_and_empty_matrices_need_no_more_directions_than_they_have(size: int) -> None:
    found = decompose(noise(90, size, seed=1))
    assert len(found.values) == min(size, 64)
    np.testing.assert_allclose(
        found.values.numpy(), lapack(noise(90, size, seed=1))[:64], rtol=1e-5
    )
    nothing = decompose(torch.zeros(90, size), 3)
    assert nothing.error == 0 and not nothing.values.any()


@pytest.mark.parametrize(
    ("shape", "matrices"),
    [
        ((12, 20), (1, 12, 20)),
        ((4, 16, 12), (4, 16, 12)),
        ((16, 3, 4, 4), (1, 16, 48)),
        ((16, 9, 4), (1, 16, 36)),
    ],
)
def test_experts_are_matrices_each_and_a_convolution_is_one(
    shape: tuple[int, ...], matrices: tuple[int, int, int]
) -> None:
    assert as_matrices(torch.Size(shape)) == matrices
    assert is_matrix(torch.Size(shape))


@pytest.mark.parametrize("shape", [(), (5,), (1, 9), (9, 1), (0, 4), (1, 3, 1)])
def test_vectors_are_no_matrices(shape: tuple[int, ...]) -> None:
    assert not is_matrix(torch.Size(shape))
