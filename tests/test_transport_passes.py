# SPDX-License-Identifier: MIT
"""The compiled passes against the same in plain torch, on every device that has them."""

import numpy as np
import pytest
import scipy.optimize
import torch
from transport_problems import half_scrambled

from geodesic_fast import ots
from geodesic_fast.engine.load import is_loaded, why_not
from geodesic_fast.transport import passes, potentials, products
from geodesic_fast.transport.passes import (
    LOWEST,
    MASS_UNITS,
    Listing,
    column_best_pass,
    list_pass,
    softmin_pass,
)
from geodesic_fast.transport.planner import make_plan
from geodesic_fast.transport.points import Points
from geodesic_fast.transport.rounding import FLOAT32_ROUNDOFF

SIZES = [(1, 1), (3, 5), (7, 63), (40, 64), (33, 65), (64, 127), (50, 1000), (130, 517)]


@pytest.fixture
def plain(monkeypatch):
    """Run a pass in plain torch."""

    def run(call, *args):
        with monkeypatch.context() as patch:
            patch.setattr(passes, "_compiled", lambda tile: False)
            return call(*args)

    return run


def problem(rows, cols, device, seed=0):
    g = torch.Generator().manual_seed(seed)
    wide, a, b = (
        torch.randn(shape, generator=g).to(device) for shape in ((rows, cols + 3), (rows,), (cols,))
    )
    return wide[:, :cols], a, b


@pytest.mark.parametrize(("rows", "cols"), SIZES)
@pytest.mark.parametrize("epsilon", [10.0, 0.3, 0.003])
def test_softmin(rows, cols, epsilon, device):
    tile, _, b = problem(rows, cols, device)
    quarter = int(MASS_UNITS) // 4
    a, mass, best = torch.empty(rows), torch.full((cols,), quarter), torch.full((cols,), LOWEST)
    supply = torch.randint(1, 5, (rows,), generator=torch.Generator().manual_seed(rows))
    a, mass, best, log_supply = (t.to(device) for t in (a, mass, best, supply.log()))
    softmin_pass(tile, b, log_supply, epsilon, a, mass, best)
    wide, beta = tile.double(), b.double()
    expected = epsilon * (torch.logsumexp((wide - beta) / epsilon, 1) - log_supply.double())
    plan = torch.exp((wide - expected[:, None] - beta) / epsilon)
    torch.testing.assert_close(a.double(), expected, rtol=1e-6, atol=1e-6 * max(1.0, epsilon))
    torch.testing.assert_close(
        mass.double() / MASS_UNITS, plan.sum(0) + 0.25, rtol=1e-4 + 1e-6 / epsilon, atol=1e-6
    )
    torch.testing.assert_close(best.double(), (wide - expected[:, None]).amax(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_column_best_keeps_what_is_larger(rows, cols, device, plain):
    tile, a, b = problem(rows, cols, device)
    ours, theirs = b.clone(), b.clone()
    column_best_pass(tile, a, ours)
    plain(column_best_pass, tile, a, theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_list_finds_exactly_what_reaches_its_threshold(rows, cols, device, plain):
    tile, a, b = problem(rows, cols, device)
    q = torch.rand(cols, device=device)
    p = 0.01 * torch.rand(rows, device=device)
    for theta, low in ((0.0, a), (0.0, a + 2.5), (0.7, a), (0.0, torch.full_like(a, -50.0))):
        listing = Listing(b, q, theta=theta)
        ours = list_pass(tile, listing, p, low, rows * cols)
        theirs = plain(list_pass, tile, listing, p, low, rows * cols)
        # A value may lie on the threshold to a rounding: compiled code may fuse the product and the sum.
        differ = set(zip(*map(np.ndarray.tolist, ours[:2]), strict=True)) ^ set(
            zip(*map(np.ndarray.tolist, theirs[:2]), strict=True)
        )
        t = (tile - b) + p[:, None] * q
        threshold = torch.maximum(low, low + theta * (t.amax(1) - low))
        assert all(abs(float(t[i, j] - threshold[i])) < 1e-5 for i, j in differ)
        torch.testing.assert_close(ours[2], theirs[2], rtol=1e-6, atol=1e-6)


def test_list_keeps_at_least_and_hardly_more_than_it_is_asked_for(device):
    tile, _, b = problem(200, 3000, device)
    zero = torch.zeros(200, device=device)
    rows, cols, _ = list_pass(tile, Listing(b, torch.zeros_like(b), keep=24), zero, zero, 200 * 3000)
    counts = np.bincount(rows, minlength=200)
    assert counts.min() >= 24
    assert counts.mean() < 40
    values = (tile - b).cpu().numpy()
    for i in (0, 99, 199):
        listed = values[i, cols[rows == i]]
        assert len(set(cols[rows == i])) == len(listed)
        assert listed.min() >= np.delete(values[i], cols[rows == i]).max()


def test_list_limits_ties_and_spreads_them(device):
    tile = torch.zeros(90, 700, device=device)
    none, zero = torch.zeros(700, device=device), torch.zeros(90, device=device)
    rows, cols, _ = list_pass(tile, Listing(none, none, keep=24, limit=64), zero, zero, 64 * 90)
    assert (np.bincount(rows) == 64).all()
    assert len(np.unique(cols)) > 600
    assert list_pass(tile, Listing(none, none), zero, zero, 699 * 90) is None
    assert len(list_pass(tile, Listing(none, none), zero, zero, 700 * 90)[0]) == 700 * 90


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 3, 16, 33, 300])
def test_edge_costs_are_float64_differences_of_the_values_given(dtype, d):
    x, y = 1e3 + torch.randn(50, d), torch.randn(50, d)
    x, y = x.to(dtype), y.to(dtype)
    points = Points(x, y, merge=False)
    rows, cols = np.repeat(np.arange(50), 50), np.tile(np.arange(50, dtype=np.int32), 50)
    expected = np.square(x.double().numpy()[:, None] - y.double().numpy()[None]).sum(-1).reshape(-1)
    np.testing.assert_allclose(points.costs(rows, cols, shifted=False), expected, rtol=(d + 4) * 2.0**-53)
    shifted = np.square(x.double().numpy()[:, None] - y.double().numpy()[None] - points.delta.numpy()).sum(-1)
    np.testing.assert_allclose(points.costs(rows, cols), shifted.reshape(-1), rtol=1e-11)


@pytest.mark.parametrize("d", [1, 17, 512, 4096])
def test_float32_products_stay_within_the_bound_that_the_certificate_uses(d):
    x, y = torch.randn(64, d) + 100, torch.randn(64, d).abs()
    points = Points(x, y, merge=False)
    products = points.block("x", slice(64)) @ points.block("y", slice(64)).T
    exact = points.block64("x", 0, 64) @ points.block64("y", 0, 64).T * points.scale**2
    norms = points.square_x.sqrt()[:, None] * points.square_y.sqrt() * points.scale**2
    assert ((products.double() - exact).abs() <= (d + 12) * FLOAT32_ROUNDOFF * norms).all()


@pytest.mark.parametrize("method", ["tiles", "stored"])
def test_a_sample_of_the_rows_finds_potentials_for_fewer_products(method, monkeypatch):
    seen, count = [0], potentials.softmin_pass

    def counted(tile, *rest):
        seen[0] += len(tile)
        count(tile, *rest)

    x, y = (torch.from_numpy(points) for points in half_scrambled(np.random.default_rng(0), 1000, 40))
    monkeypatch.setattr(potentials, "softmin_pass", counted)
    ots(x, y, method=method)
    whole, seen[0] = seen[0], 0
    monkeypatch.setattr(potentials, "_SAMPLED_ROWS", 64)
    found = ots(x, y, method=method)
    assert seen[0] < 0.7 * whole
    cost = torch.cdist(x.double(), y.double()).square().numpy()
    best = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    assert found.certified
    assert found.optimal_cost == pytest.approx(best, rel=1e-12)


def test_the_engine_says_why_it_cannot_serve_a_device():
    assert "no kernels for device type 'meta'" in why_not("meta") or not is_loaded


def test_samples_of_the_rows_tell_nothing_of_what_a_pass_takes():
    points = Points(torch.randn(600, 8), torch.randn(600, 8), merge=False)
    source = products.Products(points, make_plan(points, "tiles", None), float("inf"), False)
    assert sum(len(tile) for _, _, tile in source.tiles("test", every=4)) == 150
    assert source.pass_seconds == 0.0
    used = []
    source.time_a_pass(lambda *given: used.append(given))
    assert source.pass_seconds > 0.0
    assert len(used) == 2
    source.time_a_pass(lambda *given: used.append(given))  # known by now
    assert len(used) == 2


@pytest.mark.skipif(
    not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"),
    reason="this torch has no such setting",
)
def test_a_precision_set_by_the_user_is_kept_and_does_not_reach_the_products():
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "bf16"
        with products.full_float32(torch.device("cpu")):
            assert settings.fp32_precision == "ieee"
        assert settings.fp32_precision == "bf16"
        one, other = (products._highest_precision(torch.device("cpu")) for _ in range(2))
        one.__enter__()  # as two threads do, of which the first is the first to be done
        other.__enter__()
        one.__exit__(None, None, None)
        assert settings.fp32_precision == "ieee"
        other.__exit__(None, None, None)
        assert settings.fp32_precision == "bf16"
    finally:
        settings.fp32_precision = before
