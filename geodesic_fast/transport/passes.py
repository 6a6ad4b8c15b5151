# SPDX-License-Identifier: MIT
"""One pass over a tile of products each: a compiled kernel where there is one, plain torch elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.engine.handing import first_address, launch
from geodesic_fast.engine.load import engine, why_not

ROW_PARTS = 64
MASS_UNITS, _MASS_ROWS = 2.0**40, 32
LOWEST = -3.0e38


@dataclass(frozen=True)
class Listing:
    """Which columns a row lists: t_ij = S_ij - b_j + p_i q_j at or above its threshold."""

    b: Tensor  # (cols) float32
    q: Tensor  # (cols) float32
    theta: float = 0.0  # threshold low_i + theta max(0, max_j t_ij - low_i)
    keep: int = 0  # if set, the threshold is instead about the keep-th largest t_ij
    limit: int = 0  # if set, list at most this many columns a row


def softmin_pass(
    tile: Tensor,
    b: Tensor,
    log_supply: Tensor,
    epsilon: float,
    a: Tensor,
    col_sum: Tensor,
    col_best: Tensor,
) -> None:
    """Normalise the rows of exp((S_ij - a_i - b_j) / epsilon) by a; add up columns, raise their maxima.

    Sums are whole numbers of 1 / MASS_UNITS, int64, so that their order does not matter.
    a_i = epsilon (log sum_j exp((S_ij - b_j) / epsilon) - log_supply_i).
    """
    if _compiled(tile):
        launch("ots_softmin", tile.device, _tile(tile), b, log_supply, epsilon, a, col_sum, col_best)
        return
    torch.logsumexp((tile - b) / epsilon, 1, out=a)
    a.sub_(log_supply).mul_(epsilon)
    for rows in torch.exp((tile - a[:, None] - b) / epsilon).split(_MASS_ROWS):
        col_sum += (rows.sum(0).double() * MASS_UNITS).round_().long()
    torch.maximum(col_best, (tile - a[:, None]).amax(0), out=col_best)


def column_best_pass(tile: Tensor, a: Tensor, best: Tensor) -> None:
    """Raise best_j to max_i S_ij - a_i."""
    if _compiled(tile):
        launch("ots_column_best", tile.device, _tile(tile), a, best)
        return
    torch.maximum(best, (tile - a[:, None]).amax(0), out=best)


def list_pass(
    tile: Tensor, listing: Listing, p: Tensor, low: Tensor, capacity: int
) -> tuple[np.ndarray, np.ndarray, Tensor] | None:
    """Return rows in the tile, columns and max_j t_ij (rows); None if over `capacity` are listed."""
    if _compiled(tile):
        return _compiled_list(tile, listing, p, low, capacity)
    t = (tile - listing.b) + p[:, None] * listing.q
    best = t.amax(1)
    threshold = torch.where(best > low, low + listing.theta * (best - low), low)
    if listing.keep > 0:
        keep = min(listing.keep, t.shape[1])
        threshold = t.topk(keep, dim=1).values[:, -1]
    rows, cols = (t >= threshold[:, None]).nonzero(as_tuple=True)
    if listing.limit > 0:
        rows, cols = _at_most(rows, cols, len(tile), listing.limit)
    if len(rows) > capacity:
        return None
    return rows.cpu().numpy(), cols.to(torch.int32).cpu().numpy(), best


def _at_most(rows: Tensor, cols: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """Keep `limit` entries in a run of each row that has more, from a place that differs by row."""
    counts = torch.bincount(rows, minlength=count)
    within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    first = torch.arange(count, device=rows.device) * limit % (counts - limit + 1).clamp(min=1)
    first = torch.where(counts > limit, first, 0)[rows]
    kept = (within >= first) & (within < first + limit)
    return rows[kept], cols[kept]


def _compiled_list(
    tile: Tensor, listing: Listing, p: Tensor, low: Tensor, capacity: int
) -> tuple[np.ndarray, np.ndarray, Tensor] | None:
    rows, device = len(tile), tile.device
    best = torch.empty(rows, dtype=torch.float32, device=device)
    start = torch.empty(rows, dtype=torch.int64, device=device)
    count = torch.empty_like(start)
    columns = torch.empty(capacity, dtype=torch.int32, device=device)
    used = torch.zeros(1, dtype=torch.int64, device=device)
    launch(
        "ots_list", device, _tile(tile), listing.b, listing.q, p, low, listing.theta,
        min(listing.keep, ROW_PARTS), listing.limit, best, start, count, columns, capacity, used,
    )  # fmt: skip
    total = int(used)
    if total > capacity:
        return None
    found = columns[:total].cpu().numpy()
    starts, counts = start.cpu().numpy(), count.cpu().numpy()
    row = np.repeat(np.arange(rows), counts)
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, found[np.repeat(starts, counts) + within], best


def _compiled(tile: Tensor) -> bool:
    return why_not(tile.device.type) == ""


def _tile(tile: Tensor) -> engine.ProductTile:
    return engine.ProductTile(first_address(tile), len(tile), tile.shape[1], tile.stride(0))
