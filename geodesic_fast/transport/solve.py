# SPDX-License-Identifier: MIT
"""The whole way to a proved answer: identity, potentials, sparse assignment, pricing, again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from geodesic_fast.transport.duals import column_dual, column_potential
from geodesic_fast.transport.identity import identity_potential
from geodesic_fast.transport.interval import score_interval
from geodesic_fast.transport.planner import Plan
from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.potentials import Anneal, Schedule, usual_schedule
from geodesic_fast.transport.pricing import Prices, Pricing, usual_windows
from geodesic_fast.transport.products import OutOfTimeError, Products
from geodesic_fast.transport.proof import Proof, separate
from geodesic_fast.transport.sparse_assignment import SparseGraph

_NEARLY_IDENTITY = (
    0.02  # share of columns a sweep may still change for the identity's duals to be a good start
)
_MOST_SHIFTS, _MOST_WINDOWS = 4, 5
_SAMPLE = 4096  # values that tell about the median of all
_LARGE_DUALS = 4  # ratio of the duals' size to what a common shift of both makes of it
_TIGHT_PAIRS = 64  # a point; above that, and above the floor, ties are not enumerated
_TIGHT_FLOOR = 8_000_000
_PAIRS_AT_HAND = 8  # a point: what the plan counts on
_NEAR_BYTES = 256  # of a pair in the proof


@dataclass
class Solution:
    """A flow with duals of the shifted costs, what is proved of it, and what was done."""

    flow: Flow
    u: np.ndarray | None = None
    v: np.ndarray | None = None
    certified: bool = False
    fixed_low: float = 0.0
    fixed_high: float = 1.0
    gap: float = float("inf")  # mean over the points, shifted costs
    record: dict[str, Any] = field(default_factory=dict)


def new_record(estimated_bytes: int, estimated_seconds: float) -> dict[str, Any]:
    """Return what a search tells of itself, before it begins."""
    seconds = {"identity": 0.0, "potentials": 0.0, "assignment": 0.0, "pricing": 0.0, "ties": 0.0}
    return {
        "estimated_bytes": estimated_bytes, "estimated_seconds": estimated_seconds, "identity_sweeps": 0,
        "iterations": 0, "rounds": 0, "edges": 0, "reductions": 0, "augmentations": 0,
        "rechecked": 0, "passes": 0, "exact": False, "seconds": seconds,
    }  # fmt: skip


class Search:
    """One search for a proved assignment."""

    def __init__(self, points: Points, plan: Plan, deadline: float, verbose: bool) -> None:
        self.points, self.plan = points, plan
        self.products = Products(points, plan, deadline, verbose)
        larger = max(points.rows, points.cols)
        fit = _PAIRS_AT_HAND * larger + plan.room // _NEAR_BYTES
        self.most_near = min(max(_TIGHT_PAIRS * larger, _TIGHT_FLOOR), fit)
        self.graph = SparseGraph(points)
        self.known = self.graph.flow()  # the best so far
        self.v: np.ndarray | None = None
        self.noise = np.zeros(points.rows), np.zeros(points.cols)  # of the duals
        self.record = new_record(plan.bytes, plan.seconds)

    def run(self, start: np.ndarray | None) -> Solution:
        """Search from a column dual of the shifted costs, or from nothing."""
        points, graph = self.points, self.graph
        try:
            if self.plan.method == "dense":
                self.products.check_time()
                self.v = np.zeros(points.cols)
                graph.add(*(index.reshape(-1) for index in np.indices((points.rows, points.cols))))
                u, prices = self._solve_dense(graph)
            else:
                self._find_duals(graph, start)
                u, prices = self._solve_and_price(graph)
            return self._proved(u, prices)
        except OutOfTimeError:
            return self._interval()

    def _find_duals(self, graph: SparseGraph, start: np.ndarray | None) -> None:
        """Set column duals and the graph's first edges."""
        points, products = self.points, self.products
        began = time.monotonic()
        schedule, given = usual_schedule(points.d), None
        if start is not None:
            given = column_potential(points, start)
        b, changed, self.record["identity_sweeps"] = identity_potential(points, products, given)
        self.v = column_dual(points, b)
        self._took("identity", began)
        if changed == 0:
            return
        if changed <= _NEARLY_IDENTITY * points.cols:
            schedule = Schedule(1, schedule.stop, schedule.stop)
        elif given is not None:
            b, schedule = given, Schedule(2, schedule.stop, schedule.stop)
        else:
            b = points.square_y / 2 * points.scale**2
        began = time.monotonic()
        anneal = Anneal(points, products, b)
        try:
            anneal.run(schedule)
            graph.add(*anneal.near_pairs())
        finally:  # out of time, the duals so far still bound the score
            if anneal.iterations > 0:
                self.v = anneal.column_dual()
            self.record["iterations"] = anneal.iterations
        self._took("potentials", began)

    def _solve_and_price(self, graph: SparseGraph) -> tuple[np.ndarray, Prices]:
        thorough = False
        while True:
            u = self._solve(graph)
            began = time.monotonic()
            assert self.v is not None
            self.noise = graph.noise(u, self.v)
            prices = Pricing(self.points, u, self.v, self.noise, self.most_near, thorough=thorough).run(
                self.products
            )
            self.record["rechecked"] += prices.rechecked
            self._took("pricing", began)
            added = 0
            if prices.violated:
                found = [np.concatenate(part) for part in zip(*prices.violated, strict=True)]
                added = graph.add(*found)
            if added == 0 and prices.complete:
                return u, prices
            thorough = added == 0

    def _solve(self, graph: SparseGraph) -> np.ndarray:
        began = time.monotonic()
        assert self.v is not None
        self.v += _usual(graph.costs) / 2 - _usual(self.v)
        for _ in range(_MOST_SHIFTS):
            u, done = graph.solve(self.v, self.products.work)
            for name in ("reductions", "augmentations"):
                self.record[name] += done[name]
            duals = np.concatenate([self.v, -u])
            middle = _usual(duals)
            if _usual(np.abs(duals)) <= _LARGE_DUALS * _usual(np.abs(duals - middle)):
                break
            self.v -= middle  # rounding follows the size of the duals: solve again with smaller ones
        self.known = graph.flow()
        self.record["rounds"] += 1
        self.record["edges"] = len(graph.keys)
        self._took("assignment", began)
        return u

    def _solve_dense(self, graph: SparseGraph) -> tuple[np.ndarray, Prices]:
        """Solve on all pairs; every reduced cost is then at hand."""
        u, points = self._solve(graph), self.points
        assert self.v is not None
        reduced = (graph.costs.reshape(points.rows, points.cols) - self.v) - u[:, None]
        windows = usual_windows(points, u, self.v)
        near = np.nonzero(reduced <= 2 * (windows[0][:, None] + windows[1]))
        least = u + np.minimum(reduced.min(1), 0.0)
        return u, Prices(least, rechecked=reduced.size, near=[near], windows=windows)

    def _proved(self, u: np.ndarray, prices: Prices) -> Solution:
        """Choose the optimum with most fixed points, and state the gap."""
        began = time.monotonic()
        points, v = self.points, self.v
        assert v is not None
        flow, certified, fewest, most = self._settle(self.known, u, prices)
        self._took("ties", began)
        self.products.release()
        feasible = np.minimum(u, prices.u)
        slack = ((points.costs(flow.row, flow.col) - v[flow.col]) - feasible[flow.row]) * flow.units
        self.record["passes"] = self.products.passes
        gap, low, high = (value / points.m for value in (float(slack.sum()), fewest, most))
        return Solution(flow, feasible, v, certified, low, high, gap, self.record)

    def _settle(self, flow: Flow, u: np.ndarray, prices: Prices) -> tuple[Flow, bool, int, int]:
        """Return an optimum with most fixed points, whether it is proved, and the fewest and most of them."""
        assert self.v is not None
        for _ in range(_MOST_WINDOWS):
            if prices.near_pairs > prices.most_near:
                break
            near = tuple(np.concatenate(part) for part in zip(*prices.near, strict=True))
            prices.near.clear()
            proof = Proof(self.points, flow, near, self.products)
            bounds = proof.bounds(u, self.v)
            parts = separate(bounds)
            needed = parts.row_window, parts.col_window
            if all((has > needs).all() for has, needs in zip(prices.windows, needed, strict=True)):
                fewest, most = proof.settle(*parts.choices(bounds))
                self.record["exact"] = proof.whole
                return proof.flow(), not bool(proof.open.any()), fewest, most
            windows = tuple(
                np.maximum(has, 4 * needs) for has, needs in zip(prices.windows, needed, strict=True)
            )
            prices = Pricing(self.points, u, self.v, self.noise, self.most_near, windows, thorough=True).run(
                self.products
            )
        return flow, False, 0, self.points.m

    def _interval(self) -> Solution:
        """Say what is proved now that the time is up."""
        solution = Solution(self.known, record=self.record)
        if self.v is not None:
            solution = self._bracket(solution, column_potential(self.points, self.v))
        self.record["passes"] = self.products.passes
        return solution

    def _bracket(self, solution: Solution, b: Tensor) -> Solution:
        if not self.products.one_more_fits:  # not even one look at all pairs
            return solution
        self.products.deadline = float("inf")  # the time of this last pass was kept in hand
        found = score_interval(self.points, self.products, b, solution.flow)
        solution.fixed_low, solution.fixed_high = found.low, found.high
        solution.gap = found.gap / self.points.m
        solution.u, solution.v = found.u, found.v
        return solution

    def _took(self, stage: str, began: float) -> None:
        self.record["seconds"][stage] += time.monotonic() - began


def _usual(values: np.ndarray) -> float:
    """Return about the median, of a sample where there are many."""
    return float(np.median(values[:: 1 + len(values) // _SAMPLE]))
