# SPDX-License-Identifier: MIT
"""The certificate: all reduced costs are at least zero in float64, or here is one that is not.

Float32 products rule out pairs whose slack is larger than a rigorous bound on the rounding; the others are
computed again in float64 from the points as given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._processes import Processes
from geodesic_fast.transport.duals import column_potential, row_potential
from geodesic_fast.transport.passes import Listing, list_pass
from geodesic_fast.transport.points import Points
from geodesic_fast.transport.products import Products
from geodesic_fast.transport.rounding import FILTERED, FLOAT32_ROUNDOFF, UNIT_ROUNDOFF, of_cost, of_product

_WINDOW = 2.0**16  # times the rounding of reduced costs: what that adds up to along paths of ties
_CANDIDATES = 32  # a row, before a tile counts as full of near ties
_WORST_SHARE, _WORST_LIMIT = 0.3, 16
_SLAB_BYTES, _SLABS = 32 << 20, 128  # at most so large, at least so many
_LEAST_SLAB, _SLAB_COPIES = 1 << 20, 8


@dataclass
class Prices:
    """What a pass found: pairs to add to the graph, pairs near the duals, and feasible row duals."""

    u: np.ndarray  # (rows), at most min_j c_ij - v_j over all pairs looked at in float64
    complete: bool = True  # no pair was left out
    rechecked: int = 0
    violated: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    near: list[tuple[np.ndarray, ...]] = field(default_factory=list)  # within the windows
    near_pairs: int = 0
    most_near: int = 0
    windows: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (np.empty(0), np.empty(0)))

    @property
    def proved(self) -> bool:
        """Whether all pairs were priced and none has a negative reduced cost beyond rounding."""
        return self.complete and not self.violated

    def share(self, processes: Processes) -> None:
        """Put together what each process found in its rows."""
        if processes.size == 1:
            return
        self.u = processes.lowest(torch.from_numpy(self.u)).numpy()
        self.complete = all(processes.numbers(self.complete))
        self.rechecked = sum(processes.numbers(self.rechecked))
        self.near_pairs = sum(processes.numbers(self.near_pairs))
        if any(processes.numbers(len(self.violated))):
            self.violated = [_gathered(processes, self.violated, (np.int64, np.int32, np.float64))]
        if self.near_pairs <= self.most_near:
            self.near = [_gathered(processes, self.near, (np.int32, np.int32))]


def usual_windows(points: Points, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how near the duals pairs are listed, in a row part and a column part.

    A pair that is not listed has a reduced cost above the two parts.
    """
    each = _WINDOW * (points.d + 64) * UNIT_ROUNDOFF
    x, y = (square.cpu().numpy() for square in (points.square_x, points.square_y))
    return each * (x + np.abs(u)) + 2.0**-900, each * (y + np.abs(v)) + 2.0**-900


def _gathered(processes: Processes, found: list[Any], kinds: tuple[type[np.generic], ...]) -> Any:
    """Return columns of arrays of all processes, each of which has found some pieces or none."""
    columns = zip(*found, strict=True) if found else [()] * len(kinds)
    return tuple(
        processes.gathered(
            torch.from_numpy(np.concatenate([np.empty(0, kind), *pieces]).astype(kind))
        ).numpy()
        for kind, pieces in zip(kinds, columns, strict=True)
    )


class Pricing:
    """Duals of one round, in float64 for the points as given and in float32, rounded down, for the filter."""

    def __init__(
        self,
        points: Points,
        u: np.ndarray,
        v: np.ndarray,
        noise: tuple[np.ndarray, np.ndarray],
        most_near: int,
        windows: tuple[np.ndarray, np.ndarray] | None = None,
        thorough: bool = False,
    ) -> None:
        self.points, self.u, self.v, self.noise, self.thorough = points, u, v, noise, thorough
        self.windows = usual_windows(points, u, v) if windows is None else windows
        self.prices = Prices(u.copy(), most_near=most_near, windows=self.windows)
        squares, device = points.scale**2, points.device
        a, b = row_potential(points, u), column_potential(points, v)
        middle = b.median()
        self.a, self.b = a + middle, b - middle  # (rows), (cols) float64
        self.norm_x = points.square_x.sqrt() * points.scale
        self.norm_y = points.square_y.sqrt() * points.scale
        # What lies within the windows is to be found too; they are far above the rounding of a and b.
        self.tie_x, self.tie_y = (torch.from_numpy(w).to(device) * squares for w in self.windows)
        self.low = (self.a - FILTERED * self.a.abs() - self.tie_x - 2.0**-90).float()
        self.p = (self.norm_x * (of_product(points.d, FLOAT32_ROUNDOFF) * 1.001)).float()
        self.listing = Listing((self.b - FILTERED * self.b.abs() - self.tie_y).float(), self.norm_y.float())

    def run(self, products: Products) -> Prices:
        """Price all pairs, each process those of its rows."""
        slab = min(_SLAB_BYTES, max(products.plan.room // _SLAB_COPIES, _LEAST_SLAB))
        for start, stop, tile in products.tiles("pricing"):
            self._price(start, stop, tile, slab)
        self.prices.share(self.points.processes)
        return self.prices

    def _price(self, start: int, stop: int, tile: Tensor, slab: int) -> None:
        p, low, capacity = self.p[start:stop], self.low[start:stop], _CANDIDATES * (stop - start)
        listed = list_pass(tile, self.listing, p, low, capacity)
        if listed is not None:
            self._recheck(listed[0] + start, listed[1])
            return
        if self.thorough:
            self._price_in_float64(start, stop, slab)
            return
        worst = Listing(self.listing.b, self.listing.q, theta=_WORST_SHARE, limit=_WORST_LIMIT)
        listed = list_pass(tile, worst, p, low, capacity)
        assert listed is not None
        if self._recheck(listed[0] + start, listed[1], keep_near=False):
            self.prices.complete = False
        else:
            self._price_in_float64(start, stop, slab)

    def _price_in_float64(self, start: int, stop: int, slab: int) -> None:
        """Filter rows start..stop by float64 products: float32 could not tell their near ties apart.

        Products take at most `slab` bytes, and so do the points of y.
        """
        points = self.points
        rows = max(1, min(slab // (8 * points.cols), points.rows // _SLABS))
        cols = max(1, slab // (8 * points.d))
        squares = points.scale**2
        for at in range(start, stop, rows):
            end = min(at + rows, stop)
            x = points.block64("x", at, end) * squares
            for left in range(0, points.cols, cols):
                right = min(left + cols, points.cols)
                slack = (x @ points.block64("y", left, right).T).neg_()
                a, b = self.a[at:end, None], self.b[None, left:right]
                slack += a
                slack += b
                slack -= self.norm_x[at:end, None] * (
                    of_product(points.d, 2 * UNIT_ROUNDOFF) * self.norm_y[left:right]
                )
                slack -= 8 * UNIT_ROUNDOFF * (a.abs() + b.abs())
                slack -= self.tie_x[at:end, None] + self.tie_y[None, left:right]
                i, j = (slack <= 0).nonzero(as_tuple=True)
                self._recheck((i + at).cpu().numpy(), (j + left).to(torch.int32).cpu().numpy())

    def _recheck(self, rows: np.ndarray, cols: np.ndarray, keep_near: bool = True) -> bool:
        """Compute the pairs' reduced costs in float64; return whether one is negative beyond rounding."""
        prices = self.prices
        cost = self.points.own_costs(rows, cols)
        u, v = self.u[rows], self.v[cols]
        reduced = (cost - v) - u
        alone = of_cost(self.points.d, cost, u, v)
        rounding = alone + self.noise[0][rows] + self.noise[1][cols]
        np.minimum.at(prices.u, rows, cost - v)
        prices.rechecked += len(rows)
        bad = reduced < -rounding
        if bad.any():
            prices.violated.append((rows[bad], cols[bad], cost[bad]))
        if keep_near:
            near = reduced <= 2 * (self.windows[0][rows] + self.windows[1][cols])
            prices.near_pairs += int(near.sum())
            if prices.near_pairs <= prices.most_near:
                prices.near.append((rows[near].astype(np.int32), cols[near].astype(np.int32)))
        return bool(bad.any())
