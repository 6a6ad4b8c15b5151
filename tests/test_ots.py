# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from transport_problems import (
    FAMILIES,
    assert_certificate,
    assert_equals_scipy,
    collapsed,
    few_integers,
    half_scrambled,
    integer_grid,
    random_problem,
    random_relu,
    residual,
)

from geodesic_fast import ots, reference

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]


def tensors(family, m, d, seed=0, dtype=torch.float32):
    return tuple(torch.from_numpy(p).to(dtype) for p in family(np.random.default_rng(seed), m, d))


# Matches the float64 reference.


@pytest.mark.parametrize("part", range(8))
def test_4000_random_problems_equal_scipy(part):
    for seed in range(500 * part, 500 * (part + 1)):
        _, x, y = random_problem(seed)
        result = ots(x, y)
        assert_equals_scipy(result, x, y)
        assert_certificate(result, x, y)


@pytest.mark.parametrize(("method", "first"), [("stored", 10_000), ("tiles", 20_000)])
def test_1200_random_problems_through_the_sparse_search_equal_scipy(method, first):
    for seed in range(first, first + 600):
        _, x, y = random_problem(seed)
        result = ots(x, y, method=method)
        assert_equals_scipy(result, x, y)
        assert_certificate(result, x, y)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [2, 40])
def test_hundreds_of_points_equal_scipy(family, d):
    x, y = tensors(family, 403, d, dtype=torch.float32 if d == 2 else torch.float64)
    result = ots(x, y)
    assert_equals_scipy(result, x, y)
    assert_certificate(result, x, y)


def test_float16_and_bfloat16_are_exact_for_the_values_they_hold():
    for dtype in (torch.float16, torch.bfloat16):
        x, y = tensors(half_scrambled, 300, 9, dtype=dtype)
        narrow, wide = ots(x, y), ots(x.double(), y.double())
        assert narrow.score == wide.score
        assert narrow.optimal_cost == wide.optimal_cost
        assert narrow.map_cost == wide.map_cost


def test_the_reference_agrees():
    x, y = tensors(residual, 250, 3)
    fast, plain = ots(x, y), reference.ots(x, y)
    assert fast.score == plain.score
    assert fast.optimal_cost == pytest.approx(plain.optimal_cost, rel=1e-13)
    assert fast.map_cost == pytest.approx(plain.map_cost, rel=1e-13)
    assert fast.efficiency == pytest.approx(plain.efficiency, rel=1e-13)


# Known answers.


@pytest.mark.parametrize("m", [7, 64, 700])
def test_gradients_of_convex_functions_score_one(m):
    rng = np.random.default_rng(m)
    x = rng.standard_normal((m, 6))
    a = rng.standard_normal((6, 6))
    gradients = {
        "quadratic": x @ (a @ a.T),
        "log-sum-exp": np.exp(x @ a) / np.exp(x @ a).sum(1, keepdims=True) @ a.T,
        "sum of powers": x**3,
        "projection on a ball": x / np.maximum(1.0, np.linalg.norm(x, axis=1, keepdims=True)),
    }
    for name, y in gradients.items():
        result = ots(torch.from_numpy(x), torch.from_numpy(y))
        assert (name, result.score, result.certified) == (name, 1.0, True)


@pytest.mark.parametrize("m", [30, 900])
def test_planted_cycles_have_their_score(m):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((m, 8))
    nearest = np.sort(((x[:, None] - x[None]) ** 2).sum(-1) + 1e9 * np.eye(m), axis=1)[:, 0].min() ** 0.5
    for moved in (0, 2, m // 3, m):
        target = np.arange(m)
        target[:moved] = np.roll(target[:moved], 1)  # y_i lies close to x of the next on the cycle
        noise = rng.standard_normal((m, 8))
        y = x[target] + 0.1 * nearest * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        result = ots(torch.from_numpy(x), torch.from_numpy(y))
        assert result.score == (m - moved) / m
        assert_certificate(result, torch.from_numpy(x), torch.from_numpy(y))


def test_a_map_onto_itself_scores_one():
    for m, d in ((1, 1), (50, 3), (500, 20)):
        x = torch.randn(m, d)
        result = ots(x, x.clone())
        assert (result.score, result.optimal_cost, result.map_cost, result.efficiency) == (1.0, 0.0, 0.0, 1.0)
        assert result.relative_gap == 0.0


def test_one_point_scores_one():
    assert ots(torch.zeros(1, 3), torch.ones(1, 3)).score == 1.0


def test_of_tied_optima_the_one_with_most_fixed_points_is_reported():
    # Every assignment of these is optimal: x moves along one axis and y along another.
    x, y = torch.zeros(200, 2), torch.zeros(200, 2)
    x[:, 0], y[:, 1] = torch.arange(200.0), torch.arange(200.0).flip(0)
    assert ots(x, y).score == 1.0
    # Two copies of one point: naming either is naming both.
    x = torch.tensor([[0.0], [1.0], [2.0]])
    y = torch.tensor([[5.0], [5.0], [4.0]])
    result = ots(x, y)
    assert result.score == pytest.approx(1 / 3)
    assert ots(torch.zeros(6, 2), torch.randn(6, 2)).score == 1.0


def test_ties_among_small_points_are_decided_at_their_own_scale():
    # Far points make the duals' rounding larger than all costs among the near ones.
    rng = np.random.default_rng(0)
    near, moved = rng.standard_normal((200, 2)), rng.permutation(200)
    far = 1e9 * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    alone = ots(torch.from_numpy(near), torch.from_numpy(0.5 * near[moved]))
    x, y = (torch.from_numpy(np.concatenate([p, far])) for p in (near, 0.5 * near[moved]))
    assert ots(x, y).score == pytest.approx((alone.score * 200 + 3) / 203)


def test_certificates_hold_among_neighbouring_floats():
    """Clusters one unit of rounding wide, whose duals are as small as their costs."""
    for seed in (973, *range(200)):
        rng = np.random.default_rng(seed)
        m, d, clusters = int(rng.integers(2, 60)), int(rng.choice([1, 2, 3, 5, 17])), int(rng.integers(1, 5))
        dtype = [np.float32, np.float64][seed % 2]
        centres = rng.normal(size=(clusters, d)) * 10.0 ** rng.integers(-3, 4)
        x, y = (
            np.nextafter(centre, centre + rng.normal(size=centre.shape).astype(dtype))
            for centre in (centres[rng.integers(0, clusters, m)].astype(dtype) for _ in range(2))
        )
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        assert_certificate(ots(x, y, method=["auto", "stored", "tiles"][seed % 3]), x, y)


def test_what_rounding_leaves_open_is_not_certified():
    for seed in range(
        5
    ):  # 1-dimensional, over 50 orders of magnitude; sorting both sides leaves nothing fixed
        x = np.exp(20 * np.random.default_rng(seed).standard_normal((400, 1)))
        result = ots(torch.from_numpy(x), torch.from_numpy(x[::-1].copy()))
        assert result.score_lower == 0.0
        assert not result.certified or result.score == 0.0


# Invariances.


def test_shifts_rotations_and_relabelling_keep_the_score():
    x, y = tensors(half_scrambled, 300, 5, dtype=torch.float64)
    score = ots(x, y).score
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    order = torch.randperm(300)
    assert 0 < score < 1
    assert ots(x + 1e6, y - 1e6).score == score
    assert ots(x @ rotation, y @ rotation).score == score
    assert ots(x[order], y[order]).score == score
    assert ots(4 * x, 4 * y).score == score


@pytest.mark.parametrize("unit", [2.0**-700, 2.0**-100, 2.0**90, 2.0**500])
def test_units_keep_the_score(unit):
    x, y = tensors(half_scrambled, 200, 4, dtype=torch.float64)
    plain, scaled = ots(x, y), ots(x * unit, y * unit)
    assert scaled.score == plain.score
    assert scaled.certified
    torch.testing.assert_close(scaled.permutation, plain.permutation)


def test_layout_and_tracks_make_no_difference():
    x, y = tensors(half_scrambled, 240, 6)
    expected = ots(x, y)
    spread = torch.zeros(240, 12)
    spread[:, ::2] = x
    tracks = torch.stack([x, torch.randn_like(x), y])
    for result in (
        ots(spread[:, ::2], y.T.contiguous().T),
        ots(x.view(12, 20, 6), y.view(12, 20, 6)),
        ots(tracks),
        ots(list(tracks)),
        ots(x.requires_grad_(), y),
    ):
        assert result.score == expected.score
        assert result.optimal_cost == expected.optimal_cost


# Ways to the same answer.


@pytest.mark.parametrize("family", [half_scrambled, random_relu, few_integers, integer_grid, collapsed])
def test_methods_agree(family):
    x, y = tensors(family, 350, 7)
    dense, *others = (ots(x, y, method=method) for method in ("dense", "stored", "tiles", "auto"))
    assert [result.method for result in others][:2] == ["stored", "tiles"]
    for result in others:
        assert result.score == dense.score
        assert result.optimal_cost == pytest.approx(dense.optimal_cost, rel=1e-12)
        assert_certificate(result, x, y)


@pytest.mark.parametrize("family", [residual, half_scrambled, random_relu])
def test_its_own_potentials_cost_no_more_looks_at_all_pairs(family):
    x, y = (torch.from_numpy(p).float() for p in family(np.random.default_rng(0), 1000, 64))
    cold = ots(x, y)
    warm = ots(x, y, potentials=cold.potentials)
    assert warm.score == cold.score
    assert warm.record["passes"] <= cold.record["passes"]


def test_few_far_points_do_not_leave_the_others_unsettled():
    x, y = (torch.from_numpy(p) for p in np.random.default_rng(0).standard_cauchy((2, 1500, 8)))
    result = ots(x, y)
    assert_equals_scipy(result, x, y)
    assert_certificate(result, x, y)
    assert result.record["rounds"] <= 4


def test_potentials_start_the_next_call():
    x, y = tensors(half_scrambled, 700, 20)
    first = ots(x, y)
    again = ots(x, y, potentials=first.potentials)
    assert again.record["iterations"] < first.record["iterations"]
    assert (again.score, again.optimal_cost) == (first.score, first.optimal_cost)
    moved = y + 0.01 * torch.randn_like(y)
    from_old, from_nothing = ots(x, moved, potentials=first.potentials), ots(x, moved)
    assert from_old.score == from_nothing.score
    assert from_old.optimal_cost == pytest.approx(from_nothing.optimal_cost, rel=1e-12)
    nonsense = (torch.randn(700), 1e3 * torch.randn(700))
    assert ots(x, y, potentials=nonsense).optimal_cost == pytest.approx(first.optimal_cost, rel=1e-12)
    assert_certificate(ots(x, y, potentials=nonsense), x, y)


def test_autocast_and_reduced_precision_settings_do_not_reach_the_certificate():
    x, y = tensors(half_scrambled, 400, 40)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = ots(x, y)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert_certificate(result, x, y)
    assert_equals_scipy(result, x, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_changes_nothing(dtype):
    x, y = torch.randn(300, 5), torch.randn(300, 5)
    expected = ots(x, y, method="stored")
    try:
        torch.set_default_dtype(dtype)
        got = ots(x, y, method="stored")
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.certified
    assert torch.equal(got.permutation, expected.permutation)


def test_takes_tracks_along_any_axis():
    x = torch.randn(4, 30, 5)
    for score in (ots, reference.ots):
        expected = score(x[0], x[-1])
        for given, dim in ((x, 0), (x.movedim(0, 1), 1), (x.movedim(0, 1), -2), (list(x), 0)):
            found = score(given, dim=dim)
            assert found.score == expected.score
            assert torch.equal(found.permutation, expected.permutation)
        with pytest.raises(ValueError, match="dim must be 0 with y, got 1: it is the layer axis of tracks"):
            score(x[0], x[-1], dim=1)
        with pytest.raises(ValueError, match="dim must be 0 for a list of layers, got 1"):
            score(list(x), dim=1)
