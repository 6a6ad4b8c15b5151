# SPDX-License-Identifier: MIT
"""Dual potentials from a few annealed Sinkhorn iterations, and the pairs a sparse graph starts with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.transport.duals import column_dual
from geodesic_fast.transport.passes import LOWEST, MASS_UNITS, Listing, list_pass, softmin_pass
from geodesic_fast.transport.passes import column_best_pass as _column_best_pass
from geodesic_fast.transport.points import Points, power_below
from geodesic_fast.transport.products import Products

ROW_NEIGHBOURS, COLUMN_NEIGHBOURS = 24, 8
_ROW_LIMIT = 64  # with ties a row may have any number of equally near columns
_GROUPS = 16  # of rows; a column's threshold is the 8th largest of its maxima over them
_GROUP_ROWS = 256  # at most, one after the other
_SAMPLED_ROWS = 4096  # at least, of which all but the last temperatures have enough
_WHOLE_STEPS = 2
_START = 0.1
_MUCH_LESS = 0.5  # of the mean cost
_LEAST_SHARE = 2.0**-10  # below, float32 products tell nothing apart
_EVEN = 0.1  # mean relative error of the columns' mass
_UNDERFLOW = 1e-30


@dataclass(frozen=True)
class Schedule:
    """Temperatures in units of the mean cost, falling geometrically from `start` to `stop`."""

    iterations: int  # at most
    start: float
    stop: float

    def temperatures(self) -> list[float]:
        """Return them all."""
        steps = max(self.iterations - 1, 1)
        return [self.start * (self.stop / self.start) ** (k / steps) for k in range(self.iterations)]

    def lowered(self, share: float) -> Schedule:
        """Return the schedule that ends at so much less, in steps of the same ratio."""
        if self.start == self.stop:
            return self
        more = math.log(share) / math.log(self.stop / self.start)
        return Schedule(1 + round((self.iterations - 1) * (1 + more)), self.start, self.stop * share)


def usual_schedule(d: int) -> Schedule:
    """Return the schedule that left few pairs to be mended, or none, in measurements of each width."""
    if d >= 16:
        return Schedule(6, _START, 0.002)
    return Schedule(32 if d <= 4 else 16, _START, 0.0005)


class Anneal:
    """Sinkhorn on S = x y^T in the log domain; `b`, `a` and the column thresholds describe its plan."""

    def __init__(self, points: Points, products: Products, b: Tensor) -> None:
        self.points, self.products = points, products
        self.b = (b - b.median()).float()  # (cols)
        self.a = self.b.new_zeros(points.rows)
        self.thresholds = torch.zeros_like(self.b)
        self.mass = torch.ones_like(self.b)  # of the plan's columns before the last normalisation: its share
        self.iterations = 0
        supply, demand = (
            torch.from_numpy(units).to(b.device).double() for units in (points.supply, points.demand)
        )
        self.log_supply, self.demand = supply.log().float(), demand.float()
        cost = (points.square_x @ supply + points.square_y @ demand) / points.m * points.scale**2
        self.mean_cost = max(float(cost), 1e-30)  # of shifted points, in the units of the products
        # Where few far points make the mean, the others are settled below a usual cost.
        usual = float(points.square_x.median() + points.square_y.median()) * points.scale**2
        share = usual / self.mean_cost
        self.usual_share = max(share, _LEAST_SHARE) if share < _MUCH_LESS else 1.0

    def run(self, schedule: Schedule) -> None:
        """Iterate through the schedule; the last iteration also finds the columns' thresholds.

        Where rows are many, a sample of them is enough for all temperatures but the last two. Where all rows
        are taken, every second temperature is left out while the plan's columns are nearly even.
        """
        shares = schedule.lowered(self.usual_share).temperatures()
        temperatures = [share * self.mean_cost / 2 for share in shares]
        step, last = 0, len(temperatures) - 1
        sampled = power_below(self.points.rows // _SAMPLED_ROWS, 1, self.products.plan.tile_rows)
        if sampled > 1:
            self.products.time_a_pass(self._try(temperatures[0]))
        while step < last:
            every = 1 if step > last - _WHOLE_STEPS else sampled
            self.iterate(temperatures[step], every)
            even = every == 1 and float((self.mass - 1).abs().mean()) < _EVEN
            step = min(step + 1 + even, last)
        self.iterate(temperatures[last], last=True)

    def _try(self, epsilon: float) -> Callable[[int, int, Tensor], None]:
        """Return an iteration over a tile that leaves nothing behind, to be timed."""
        a, whole, best = self.a.clone(), torch.zeros_like(self.b, dtype=torch.int64), self.b.clone()

        def use(start: int, stop: int, tile: Tensor) -> None:
            softmin_pass(tile, self.b, self.log_supply[start:stop], epsilon, a[start:stop], whole, best)
            float(best[0])  # waits for a GPU

        return use

    def iterate(self, epsilon: float, every: int = 1, last: bool = False) -> None:
        """Normalise each `every`-th row of the plan exp((S - a - b) / epsilon), then its columns."""
        whole = torch.zeros_like(self.b, dtype=torch.int64)
        best = torch.full_like(self.b, LOWEST)
        groups = self.b.new_full((_GROUPS, len(self.b)), LOWEST) if last else None
        for start, stop, tile in self.products.tiles("potentials", every):
            rows = slice(start, stop, every)
            a, log_supply = self.a[rows].contiguous(), self.log_supply[rows].contiguous()
            softmin_pass(tile, self.b, log_supply, epsilon, a, whole, best)
            if groups is not None:
                self._raise_groups(groups, tile, start)
        share = 1.0 if every == 1 else int(self.points.supply[::every].sum()) / self.points.m
        processes = self.points.processes
        mass = processes.total(whole).float().div_(self.demand).div_(MASS_UNITS * share)
        best = processes.highest(best)
        softened = self.b + epsilon * mass.clamp(min=_UNDERFLOW).log()
        self.b = torch.where(mass > _UNDERFLOW, softened, best)
        self.mass, self.iterations = mass, self.iterations + 1
        if groups is not None:
            groups = processes.highest(groups)
            self.thresholds = groups.topk(COLUMN_NEIGHBOURS, dim=0).values[-1].contiguous()

    def _raise_groups(self, groups: Tensor, tile: Tensor, start: int) -> None:
        size = power_below(self.points.rows // _GROUPS, 1, _GROUP_ROWS)
        for at in range(0, len(tile), size):
            rows = slice(at, min(at + size, len(tile)))
            group = groups[(start + at) // size % _GROUPS]
            _column_best_pass(tile[rows], self.a[start : start + len(tile)][rows], group)

    def near_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of the pairs of least slack: about 24 a row and 8 a column."""
        none, zeros = torch.zeros_like(self.b), torch.zeros_like(self.a)
        by_row = Listing(self.b, none, keep=ROW_NEIGHBOURS, limit=_ROW_LIMIT)
        by_column = Listing(self.thresholds, none, limit=_ROW_LIMIT)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start, stop, tile in self.products.tiles("near pairs"):
            capacity, zero = _ROW_LIMIT * len(tile), zeros[start:stop]
            for listing, low in ((by_row, zero), (by_column, self.a[start:stop])):
                listed = list_pass(tile, listing, zero, low, capacity)
                assert listed is not None
                found.append((listed[0] + start, listed[1]))
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in found)])
        cols = np.concatenate([np.empty(0, np.int32), *(cols for _, cols in found)])
        processes = self.points.processes
        rows, cols = (processes.gathered(torch.from_numpy(of)).numpy() for of in (rows, cols))
        return rows, cols

    def column_dual(self) -> np.ndarray:
        """Return v_j = |y_j|^2 - 2 b_j of the shifted costs, (cols) float64."""
        return column_dual(self.points, self.b.double())
