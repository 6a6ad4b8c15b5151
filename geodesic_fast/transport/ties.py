# SPDX-License-Identifier: MIT
"""Among optimal assignments, one with the most fixed points.

Every optimal assignment uses pairs without reduced cost only, and every perfect matching of such pairs is
optimal. So the most fixed points are a second assignment on the graph of these pairs, at cost 0 where the
pair is a fixed point and 1 where it is not: whole numbers, solved without rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from geodesic_fast.transport.points import Points
from geodesic_fast.transport.sparse_assignment import solve_rows

_BLOCK_BYTES = 1 << 20
_COARSE = 1e-10  # rounding of the duals above which ties are looked into, relative to their component's costs
_MOST_ROUNDS = 64


class Ties:
    """Pairs without reduced cost to rounding, on alternating cycles only: elsewhere there is no choice.

    Where duals are large beside the costs, as in a cluster that shares a problem with far outliers, rounding
    hides which tied pair is cheaper. Such a component is solved again by itself, with duals of its own size.
    """

    def __init__(
        self,
        points: Points,
        match: np.ndarray,
        rows: np.ndarray,
        cols: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
    ) -> None:
        self.points, self.match = points, match.copy()
        self.u, self.v = u.copy(), v.copy()
        self.rows, self.cols = sorted_pairs(match, rows, cols)
        self.costs = points.costs(self.rows, self.cols)

    def refine(self, check_time: Callable[[], None]) -> bool:
        """Keep the pairs on alternating cycles; solve components again until their duals are small enough.

        Returns whether smaller duals told pairs apart that were tied before.
        """
        for done in range(_MOST_ROUNDS):
            component = self._components()
            if not self._solve_coarse(component, check_time):
                return done > 0
        return True

    def _components(self) -> np.ndarray:
        """Return each row's component of alternating cycles, and drop the pairs between components."""
        m = len(self.match)
        owner = np.empty(m, np.int32)
        owner[self.match] = np.arange(m, dtype=np.int32)
        holder = owner[self.cols]
        row_start = np.searchsorted(self.rows, np.arange(m + 1))
        graph = csr_matrix((np.ones(len(holder), np.int8), holder, row_start), shape=(m, m))
        component = connected_components(graph, directed=True, connection="strong")[1]
        self._keep(component[self.rows] == component[holder])
        return component

    def _keep(self, kept: np.ndarray) -> None:
        self.rows, self.cols, self.costs = self.rows[kept], self.cols[kept], self.costs[kept]

    def _solve_coarse(self, component: np.ndarray, check_time: Callable[[], None]) -> bool:
        """Solve the components whose duals are too large; return whether there was one with a choice."""
        size, u, v = (np.zeros(component.max() + 1) for _ in range(3))  # of each component, the largest
        np.maximum.at(size, component[self.rows], self.costs)
        np.maximum.at(u, component, np.abs(self.u))
        np.maximum.at(v, component, np.abs(self.v[self.match]))
        noise = self.points.cost_rounding(np.zeros_like(size), u, v)
        coarse = (noise > _COARSE * size) & (np.bincount(component) > 1)
        if not coarse.any():
            return False
        chosen = np.flatnonzero(coarse[component])
        edges = coarse[component[self.rows]]
        new_row, new_col = np.zeros(len(component), np.int64), np.zeros(len(component), np.int32)
        columns = self.match[chosen]
        new_row[chosen] = new_col[columns] = np.arange(len(chosen))
        row_start = np.searchsorted(new_row[self.rows[edges]], np.arange(len(chosen) + 1))
        v, match = np.zeros(len(chosen)), np.arange(len(chosen), dtype=np.int32)
        u, _ = solve_rows(row_start, new_col[self.cols[edges]], self.costs[edges], v, match, check_time)
        self.u[chosen], self.v[columns], self.match[chosen] = u, v, columns[match]
        return self._drop_loose(edges, component)

    def _drop_loose(self, edges: np.ndarray, component: np.ndarray) -> bool:
        """Drop pairs that have a reduced cost by the new duals; return whether any had one."""
        u, v, of = self.u[self.rows], self.v[self.cols], component[self.rows]
        rounding = np.zeros(
            component.max() + 1
        )  # whatever is tied together shares the rounding of its largest
        np.maximum.at(rounding, of, self.points.cost_rounding(self.costs, u, v))
        loose = edges & (self.costs - u - v > rounding[of])
        self._keep(~loose)
        return bool(loose.any())


def sorted_pairs(match: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs and the matched ones by row and column, each once, int32."""
    m = len(match)
    keys = np.empty(len(rows) + m, np.int64)
    keys[: len(rows)] = rows
    keys[len(rows) :] = np.arange(m)
    keys *= m
    keys[: len(rows)] += cols
    keys[len(rows) :] += match
    keys.sort()
    keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
    sorted_rows = (keys // m).astype(np.int32)
    keys %= m
    return sorted_rows, keys.astype(np.int32)


def equal_point_labels(points: Tensor) -> np.ndarray:
    """Number the points (m, d) so that two have the same number exactly when they are equal, (m) int64."""
    hashes = _hashes(points)
    _, first, label = np.unique(hashes, return_index=True, return_inverse=True)
    if len(first) == len(hashes):
        return label
    twin = first[label]
    apart = np.flatnonzero(twin != np.arange(len(twin)))
    left, right = (torch.from_numpy(index).to(points.device) for index in (apart, twin[apart]))
    if bool((points[left] == points[right]).all()):
        return label
    return np.unique((points + 0.0).cpu().numpy(), axis=0, return_inverse=True)[1].reshape(-1)


def _hashes(points: Tensor) -> np.ndarray:
    """Return one int64 for each point, equal for equal points."""
    m, d = points.shape
    kind = torch.int64 if points.dtype == torch.float64 else torch.int32
    weights = torch.from_numpy(np.random.default_rng(0).integers(-(2**62), 2**62, d) | 1).to(points.device)
    hashes = torch.empty(m, dtype=torch.int64, device=points.device)
    rows = max(1, _BLOCK_BYTES // (8 * d))
    for start in range(0, m, rows):
        bits = (points[start : start + rows] + 0.0).contiguous().view(kind).long()  # -0 becomes 0
        hashes[start : start + rows] = (bits * weights).sum(1)
    return hashes.cpu().numpy()


def keep_free_changes(points: Points, match: np.ndarray, changed: np.ndarray) -> tuple[np.ndarray, bool]:
    """Undo the cycles of a change that cost more than rounding; also say whether there were any."""
    m = len(match)
    owner = np.empty(m, np.int64)
    owner[match] = everyone = np.arange(m)
    graph = csr_matrix((np.ones(m, np.int8), (everyone, owner[changed])), shape=(m, m))
    cycle = connected_components(graph, directed=False)[1]
    before, after = points.costs(everyone, match), points.costs(everyone, changed)
    rounding = points.cost_rounding(before, after, np.zeros(m))
    dearer = np.bincount(cycle, after - before) > np.bincount(cycle, rounding)
    return np.where(dearer[cycle], match, changed), bool(dearer.any())


def most_fixed_points(
    match: np.ndarray, rows: np.ndarray, cols: np.ndarray, labels: np.ndarray, check_time: Callable[[], None]
) -> np.ndarray:
    """Return an optimal matching (m) int32 with most rows i matched to a point equal to y_i.

    rows, cols: all pairs without reduced cost. labels: equal for equal points y.
    """
    m = len(match)
    fixed_pair = labels[rows] == labels[cols]
    if not fixed_pair[labels[match[rows]] != labels[rows]].any():
        return fixed_to_themselves(match, labels)
    i, j = sorted_pairs(match, rows, cols)
    row_start = np.searchsorted(i, np.arange(m + 1))
    better = match.copy()
    solve_rows(row_start, j, (labels[i] != labels[j]).astype(np.float64), np.zeros(m), better, check_time)
    return fixed_to_themselves(better, labels)


def fixed_to_themselves(match: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Let every row that is matched to a twin of its own point take that point; costs stay the same."""
    match = match.copy()
    owner = np.empty_like(match)
    owner[match] = np.arange(len(match), dtype=match.dtype)
    for i in np.flatnonzero((labels[match] == labels) & (match != np.arange(len(match)))):
        twin, other = match[i], owner[i]
        match[i], match[other] = i, twin
        owner[i], owner[twin] = i, other
    return match
