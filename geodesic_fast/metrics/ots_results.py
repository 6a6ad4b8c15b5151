# SPDX-License-Identifier: MIT
"""What `ots` returns, for one problem or for many."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._arrays import Array, NDArray, ResultOf, as_tensors
from geodesic_fast._results import compared_by_value
from geodesic_fast.transport.dense_assignment import DenseSolutions

_ROWS_VERIFIED = 256  # at a time


@compared_by_value
@dataclass(frozen=True, eq=False)
class OTSResult(ResultOf[Array]):
    """What `ots` found: the score and how far it is proved, the assignment, its cost and its certificate."""

    score: float  # NaN unless certified
    permutation: Array  # (m) int64: T(x_i) = y[permutation[i]]; the best known where not certified
    map_cost: float  # mean |x_i - y_i|^2
    optimal_cost: float  # mean |x_i - T(x_i)|^2 = W2^2; an upper bound where not certified
    efficiency: float  # optimal_cost / map_cost
    certified: bool
    score_lower: float = 0.0
    score_upper: float = 1.0
    gap: float = math.inf  # optimal_cost minus what the potentials prove
    relative_gap: float = math.inf  # gap / optimal_cost
    potentials: tuple[Array, Array] | None = None  # (u, v), (m) float64 each: u_i + v_j <= |x_i - y_j|^2
    method: str = "reference"
    record: dict[str, Any] = field(default_factory=dict, compare=False)  # stages, counts and seconds

    def verify(self, x: Tensor | NDArray, y: Tensor | NDArray) -> bool:
        """Check on all pairs of x and y, in plain float64, that no assignment costs less than this one.

        True if the permutation is one-to-one and u_i + v_j <= |x_i - y_j|^2, with equality for its own pairs,
        up to the rounding that `ots` states. It shares no code with the search, and takes m^2 d operations.
        """
        if self.potentials is None:
            return False
        x, y = (torch.as_tensor(as_tensors(of)).detach().cpu().double().flatten(0, -2) for of in (x, y))
        u, v = (torch.as_tensor(of).cpu() for of in self.potentials)
        column = torch.as_tensor(self.permutation).cpu()
        if x.shape != y.shape or len(x) != len(column):
            raise ValueError(
                f"x and y must be the {len(column)} points that were scored, got shapes {tuple(x.shape)} and "
                f"{tuple(y.shape)}: a certificate holds for its own points alone."
            )
        if not torch.equal(column.sort().values, torch.arange(len(x))):
            return False
        worst = (u + v[column] - (x - y[column]).square().sum(-1)).abs().max()
        largest = torch.stack([u.abs().max(), v.abs().max()]).max()
        for rows in torch.arange(len(x)).split(_ROWS_VERIFIED):
            cost = torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist").square()
            worst = torch.maximum(worst, (u[rows, None] + v - cost).max())
            largest = torch.maximum(largest, cost.max())
        return bool(worst <= (x.shape[-1] + 64) * 2.0**-53 * largest)


@compared_by_value
@dataclass(frozen=True, eq=False)
class OTSBatchResult(ResultOf[Array]):
    """What `ots(..., batch_dims=k)` found: the fields of `OTSResult`, stacked over the k axes of problems."""

    score: Array  # (*b) float64, as are all but the next and `certified`
    permutation: Array  # (*b, m) int64
    map_cost: Array
    optimal_cost: Array
    efficiency: Array
    certified: Array  # (*b) bool
    score_lower: Array
    score_upper: Array
    gap: Array
    relative_gap: Array
    potentials: tuple[Array, Array]  # (u, v), (*b, m) each; NaN for a problem that has none
    method: str = "reference"
    record: dict[str, Any] = field(default_factory=dict, compare=False)


def moved(result: OTSResult, device: torch.device) -> OTSResult:
    """Return a result whose tensors are on a device."""
    potentials = result.potentials and (result.potentials[0].to(device), result.potentials[1].to(device))
    return dataclasses.replace(result, permutation=result.permutation.to(device), potentials=potentials)


def stacked_fields(dense: DenseSolutions) -> dict[str, Tensor]:
    """Return the fields of results, stacked."""
    column, proved, map_cost, optimal_cost, gap, u, v = (
        torch.from_numpy(of)
        for of in (
            dense.column, dense.unique, dense.map_cost, dense.optimal_cost, dense.gap, dense.u, dense.v,
        )
    )  # fmt: skip
    score = (column == torch.arange(column.shape[1])).double().mean(1)
    return {
        "score": score.where(proved, math.nan), "permutation": column, "map_cost": map_cost,
        "optimal_cost": optimal_cost, "efficiency": (optimal_cost / map_cost).where(map_cost > 0, 1.0),
        "certified": proved, "score_lower": score.where(proved, 0.0), "score_upper": score.where(proved, 1.0),
        "gap": gap, "relative_gap": (gap / optimal_cost).where(gap > 0, 0.0), "u": u, "v": v,
    }  # fmt: skip


def put(fields: dict[str, Tensor], k: int, result: OTSResult) -> None:
    """Set the fields of problem k."""
    for name, values in fields.items():
        if name not in ("u", "v"):
            values[k] = getattr(result, name)
    if result.potentials is not None:
        fields["u"][k], fields["v"][k] = result.potentials


def stacked(
    fields: dict[str, Tensor],
    batch: tuple[int, ...],
    device: torch.device,
    method: str,
    record: dict[str, Any],
) -> OTSBatchResult:
    """Return the result of many problems, whose axes are those of the batch."""
    given = {name: values.reshape(*batch, *values.shape[1:]).to(device) for name, values in fields.items()}
    potentials = given.pop("u"), given.pop("v")
    return OTSBatchResult(**given, potentials=potentials, method=method, record=record)
