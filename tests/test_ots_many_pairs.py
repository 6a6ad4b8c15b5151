# SPDX-License-Identifier: MIT
"""More pairs than 32 bits count: places in tiles and keys of graphs, without the time that all pairs take."""

import mmap

import numpy as np
import pytest
import torch

from geodesic_fast.transport.passes import LOWEST, Listing, column_best_pass, list_pass, softmin_pass
from geodesic_fast.transport.points import Points
from geodesic_fast.transport.sparse_assignment import SparseGraph

pytestmark = pytest.mark.engine
ROWS, COLS, STRIDE = 3, 200, 2**31  # the last row lies 2^32 values behind the first
POINTS = 70_000


@pytest.fixture
def tiles():
    """Return a tile twice: its rows far apart in memory that is hardly there, and side by side."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        memory = mmap.mmap(-1, 4 * ((ROWS - 1) * STRIDE + COLS), flags=private)
    except OSError as error:
        pytest.skip(f"no room for 16 GiB of addresses: {error}")
    near = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    far = torch.frombuffer(memory, dtype=torch.float32).as_strided((ROWS, COLS), (STRIDE, 1))
    far.copy_(near)
    return far, near


def everything(tile):
    """Return what all passes make of a tile."""
    b, q = torch.linspace(-1, 1, COLS), torch.linspace(0, 1, COLS)
    supply, a = torch.zeros(ROWS), torch.empty(ROWS)
    mass, best, top = (
        torch.zeros(COLS, dtype=torch.int64),
        torch.full((COLS,), LOWEST),
        torch.full((COLS,), LOWEST),
    )
    softmin_pass(tile, b, supply, 0.1, a, mass, best)
    column_best_pass(tile, a, top)
    listed = list_pass(tile, Listing(b, q, keep=8, limit=20), supply, supply, 64 * ROWS)
    return [a, mass, best, top, *map(torch.as_tensor, listed)]


def test_rows_beyond_32_bits_are_found(tiles):
    far, near = (everything(tile) for tile in tiles)
    assert all(torch.equal(*pair) for pair in zip(far, near, strict=True))
    assert near[4].max() == ROWS - 1


def test_pairs_beyond_32_bits_keep_apart():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((POINTS, 1)).astype(np.float32).astype(np.float64) + np.arange(POINTS)[:, None]
    order = rng.permutation(POINTS)
    points = Points(torch.from_numpy(x), torch.from_numpy(x[order]), merge=False, one_unit=True)
    assert points.rows * points.cols > 2**32
    home = np.argsort(order)  # where each x lies among the y
    beside = (home + 1) % POINTS, (home - 1) % POINTS
    rows = np.concatenate([np.arange(POINTS)] * 3)
    graph = SparseGraph(points)
    assert graph.add(rows, np.concatenate([home, *beside]).astype(np.int32)) > 2 * POINTS
    assert (np.diff(graph.keys) > 0).all()
    v = np.zeros(POINTS)
    u, _ = graph.solve(v, lambda slices, _: list(slices))
    flow = graph.flow()
    assert (points.permutation(flow) == home).all()
    assert points.fixed(flow) == (order == np.arange(POINTS)).sum()
    assert np.abs(u + v[home]).max() == 0.0
