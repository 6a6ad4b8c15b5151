# SPDX-License-Identifier: MIT
"""Many problems in one call: each has the answer that it has alone, and the exact one."""

import math

import numpy as np
import pytest
import torch
from exact_transport import FAMILIES as EXACT_FAMILIES
from exact_transport import exact_score
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch._subclasses.fake_tensor import FakeTensorMode
from transport_problems import FAMILIES, assert_certificate, assert_equals_scipy, half_scrambled, residual

from geodesic_fast import OTSResult, ots, reference
from geodesic_fast.engine.load import is_loaded
from geodesic_fast.transport import dense_assignment

needs_engine = pytest.mark.skipif(not is_loaded, reason="the engine is not built: certificates come from it")
pytestmark = [needs_engine, pytest.mark.usefixtures("one_thread")]
FIELDS = (
    "score", "map_cost", "optimal_cost", "efficiency", "certified", "score_lower", "score_upper", "gap",
    "relative_gap",
)  # fmt: skip


def batch(family, problems, m, d, dtype=torch.float32):
    """Return x and y, (problems, m, d)."""
    made = [family(np.random.default_rng(seed), m, d) for seed in range(problems)]
    return (torch.from_numpy(np.stack(side)).to(dtype) for side in zip(*map(tuple, made), strict=True))


def one_of(many, *index):
    """Return the result of one problem of a batch."""
    u, v = many.potentials
    numbers = {name: getattr(many, name)[index].item() for name in FIELDS}
    return OTSResult(permutation=many.permutation[index], potentials=(u[index], v[index]), **numbers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("m", "d"), [(1, 3), (2, 1), (17, 2), (64, 5), (130, 40)])
def test_each_problem_equals_scipy(family, m, d):
    x, y = batch(family, 4, m, d, torch.float64 if m == 64 else torch.float32)
    many = ots(x, y, batch_dims=1)
    for k in range(4):
        assert_equals_scipy(one_of(many, k), x[k], y[k])
        assert_certificate(one_of(many, k), x[k], y[k])


@pytest.mark.parametrize("family", EXACT_FAMILIES, ids=lambda family: family.__name__)
def test_each_problem_has_the_exact_score(family):
    for m, d in ((2, 1), (5, 2), (7, 3)):
        x, y = batch(family, 6, m, d, torch.float64)
        many = ots(x, y, batch_dims=1)
        assert many.certified.all()
        assert many.score.tolist() == [exact_score(*problem) for problem in zip(x, y, strict=True)]


def test_only_what_rounding_leaves_open_is_searched():
    x, y = batch(half_scrambled, 8, 90, 6)
    x[3, 0], y[3, 0] = x[3, 1], y[3, 2]  # equal points: tied optima
    many = ots(x, y, batch_dims=1)
    assert many.record["searched"] == 1
    for k in range(8):
        alone = ots(x[k], y[k], method="stored")
        assert torch.equal(many.permutation[k], alone.permutation)
        assert many.score[k] == alone.score
        for name in ("map_cost", "optimal_cost", "efficiency"):
            assert getattr(many, name)[k].item() == pytest.approx(getattr(alone, name), rel=1e-13)


def test_the_least_difference_that_float64_holds_is_no_tie():
    """Two assignments whose costs differ in the last place, and their mirror image, beside a tie of both."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(3, 1, 1)
    y = torch.tensor([[5.0], [5.0]], dtype=torch.float64).repeat(3, 1, 1)
    y[0, 1] = np.nextafter(5.0, 6.0)
    y[1, 0] = np.nextafter(5.0, 6.0)
    many = ots(x, y, batch_dims=1)
    assert many.certified.all()
    assert many.score.tolist() == [1.0, 0.0, 1.0]


def test_distances_are_those_of_pot():
    ot = pytest.importorskip("ot", reason="needs the package POT")
    x, y = batch(residual, 5, 60, 4, torch.float64)
    found, weights = ots(x, y, batch_dims=1).optimal_cost, np.full(60, 1 / 60)
    for a, b, cost in zip(x.numpy(), y.numpy(), found, strict=True):
        assert cost.item() == pytest.approx(ot.emd2(weights, weights, cdist(a, b, "sqeuclidean")), rel=1e-12)


@pytest.mark.parametrize("d", [2, 300])
def test_problems_of_500_points_equal_scipy(d):
    x, y = batch(half_scrambled, 2, 500, d, torch.float64)
    many = ots(x, y, batch_dims=1)
    for k in range(2):
        costs = cdist(x[k], y[k], "sqeuclidean")
        assert many.permutation[k].tolist() == linear_sum_assignment(costs)[1].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_layouts_and_devices(dtype, device):
    x, y = (p.to(device) for p in batch(half_scrambled, 6, 33, 5, dtype))
    many = ots(x, y, batch_dims=1)
    alone = [ots(a, b) for a, b in zip(x, y, strict=True)]
    assert many.score.tolist() == [one.score for one in alone]
    assert torch.equal(many.permutation, torch.stack([one.permutation for one in alone]))
    for name in ("score", "permutation", "certified", "gap"):
        assert getattr(many, name).device == x.device
    spread = torch.zeros(33, 6, 10, dtype=dtype, device=device)
    spread[..., ::2] = x.transpose(0, 1)
    for other in (
        ots(spread[..., ::2].transpose(0, 1), y, batch_dims=1),
        ots(torch.stack((x, y)), batch_dims=1),
        ots([x, torch.zeros_like(x), y], batch_dims=1),
        ots(x.view(6, 11, 3, 5), y.view(6, 11, 3, 5), batch_dims=1),
    ):
        assert other == many
    grid = ots(x.view(2, 3, 33, 5), y.view(2, 3, 33, 5), batch_dims=2)
    assert grid.permutation.shape == grid.potentials[1].shape == (2, 3, 33)
    assert torch.equal(grid.score.view(-1), many.score)


def test_arrays_come_back_as_arrays():
    x, y = (p.numpy() for p in batch(residual, 3, 20, 4))
    found = ots(x, y, batch_dims=1)
    for name in (*FIELDS, "permutation"):
        assert isinstance(getattr(found, name), np.ndarray)
    assert found.potentials[0].shape == (3, 20)


def test_maps_onto_themselves_have_no_gap():
    x = torch.randn(5, 300, 20)
    many = ots(x, x.clone(), batch_dims=1)
    assert (many.score == 1.0).all()
    for name in ("map_cost", "optimal_cost", "gap", "relative_gap"):
        assert (getattr(many, name) == 0.0).all(), name
    assert (many.efficiency == 1.0).all()
    assert isinstance(ots(x[0], x[0]).score, float)


def test_no_problem_and_one_of_one_point():
    empty = ots(torch.zeros(0, 4, 2), torch.zeros(0, 4, 2), batch_dims=1)
    assert empty.score.shape == (0,)
    assert empty.permutation.shape == (0, 4)
    single = ots(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), batch_dims=1)
    assert (single.score.item(), single.optimal_cost.item(), single.certified.item()) == (1.0, 2.0, True)


def test_parts_turns_and_threads_change_nothing(monkeypatch):
    x, y = batch(half_scrambled, 12, 70, 2)
    expected = ots(x, y, batch_dims=1)
    monkeypatch.setattr(dense_assignment, "_CHUNK_BYTES", 200_000)  # two or three problems at once
    assert ots(x, y, batch_dims=1) == expected
    monkeypatch.setattr(dense_assignment, "_STEPS", 1)  # each call of the engine finds one path
    assert ots(x, y, batch_dims=1) == expected
    torch.set_num_threads(3)
    assert ots(x, y, batch_dims=1) == expected
    assert ots(x[0], y[0]).permutation.tolist() == expected.permutation[0].tolist()


def test_larger_problems_are_searched_one_by_one():
    x, y = batch(residual, 2, 700, 6)
    many = ots(x, y, batch_dims=1)
    assert (many.method, many.record["searched"]) == ("stored", 2)
    again = ots(x, y, batch_dims=1, potentials=many.potentials)
    for k in range(2):
        assert many.score[k] == again.score[k] == ots(x[k], y[k]).score


def test_what_the_time_does_not_reach_is_an_interval():
    x, y = batch(half_scrambled, 5, 50, 3)
    late = ots(x, y, batch_dims=1, time_budget=1e-9)
    assert not late.certified.any()
    assert late.score.isnan().all()
    assert (late.score_lower.max(), late.score_upper.min(), late.gap.min()) == (0.0, 1.0, math.inf)
    assert torch.equal(late.optimal_cost, late.map_cost)
    assert ots(x, y, batch_dims=1, time_budget=60.0) == ots(x, y, batch_dims=1)


def test_the_reference_agrees():
    x, y = batch(residual, 4, 30, 3)
    fast, plain = ots(x, y, batch_dims=1), reference.ots(x, y, batch_dims=1)
    assert torch.equal(fast.permutation, plain.permutation)
    assert torch.equal(fast.score, plain.score)
    torch.testing.assert_close(fast.optimal_cost, plain.optimal_cost, rtol=1e-13, atol=0)
    torch.testing.assert_close(fast.map_cost, plain.map_cost, rtol=1e-13, atol=0)


def test_a_problem_beyond_the_range_of_squares_leaves_the_others_alone():
    x, y = batch(half_scrambled, 4, 40, 3, torch.float64)
    plain = ots(x, y, batch_dims=1)
    scale = torch.tensor([1.0, 2.0**600, 1.0, 2.0**101], dtype=torch.float64)[:, None, None]
    many = ots(scale * x, scale * y, batch_dims=1)
    assert many.certified.all()
    assert many.record["searched"] == 2
    assert torch.equal(many.permutation, plain.permutation)
    assert torch.equal(many.score, plain.score)


def test_says_what_is_wrong():
    x = torch.zeros(3, 4, 2)
    bad = x.clone()
    bad[1, 2, 0] = math.inf
    for error, match, call in (
        (
            ValueError,
            r"x\[1\] must be finite, got NaN or inf first in row 2",
            lambda: ots(bad, x, batch_dims=1),
        ),
        (ValueError, r"shape \(b0, m, d\), got \(4, 2\)", lambda: ots(x[0], x[0], batch_dims=1)),
        (ValueError, "batch_dims must be a whole number", lambda: ots(x, x, batch_dims=-1)),
        (ValueError, "batch_dims must be a whole number", lambda: ots(x, x, batch_dims=True)),
        (ValueError, "batch_dims must leave x an axis", lambda: ots(x, x, batch_dims=10**12)),
        (ValueError, "potentials must be", lambda: ots(x, x, batch_dims=1, potentials=5)),
        (ValueError, "at least 1 point", lambda: ots(x[:, :0], x[:, :0], batch_dims=1)),
        (
            ValueError,
            r"potentials must be \(u, v\) of shape \(3, 4\)",
            lambda: ots(x, x, batch_dims=1, potentials=(x[0], x[0])),
        ),
        (MemoryError, "memory_budget must hold", lambda: ots(x, x, batch_dims=1, memory_budget=1)),
    ):
        with pytest.raises(error, match=match):
            call()
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        with pytest.raises(TypeError, match="whose values lie in memory"):
            ots(fake, fake, batch_dims=1)
