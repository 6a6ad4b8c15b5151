# SPDX-License-Identifier: MIT
"""The scores as torchmetrics classes: update, compute, reset, and one value over all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from geodesic_fast import StepGeometry, ots, step_geometry, track_geometry
from geodesic_fast import StepProfile as Profile
from geodesic_fast import TrackGeometry as Geometry
from geodesic_fast._processes import processes_of
from geodesic_fast._shared_points import hold_no_pairs
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_choice, check_points, check_zero_step
from geodesic_fast.integrations._packages import need
from geodesic_fast.recording import mask_mistakes, mistakes

Metric: Any = need("torchmetrics", "a metric class", "torchmetrics").Metric

Given = Tensor | Sequence[Tensor] | Geometry
_UNDEFINED = ("propagate", "skip")


class _Metric(Metric):
    """What the classes below share: whose states are whose, and in which precision they are held."""

    is_differentiable = False
    full_state_update = False

    def _keep_apart(self, **arguments: object) -> None:
        """Let no metric of another class or with other arguments share the states of this one.

        A MetricCollection lets metrics share their states if those have the same names and hold nearly the
        same values after a first batch, and `merge_state` adds up states of the same names. So the first
        state, always zero, has the class and the arguments for its name.
        """
        listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        self.add_state(f"{type(self).__qualname__}({listed})", torch.zeros(()), dist_reduce_fx="sum")

    def _apply(self, function: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        """Move the states to another device; their dtype is not that of the network's parameters."""

        def move(state: Tensor) -> Tensor:
            moved = function(state)
            return moved if moved.dtype == state.dtype else state.to(moved.device)

        return super()._apply(move, *args, **kwargs)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the current values, or those in `val`, with matplotlib."""
        return self._plot(val, ax)


class TrackGeometry(_Metric):
    """Mean of every number of `track_geometry` over all tracks of all batches and processes.

    field = (sum over tracks of field) / (number of tracks)

    `update(tracks, mask=None)` takes what `track_geometry` takes, or a `geodesic_fast.TrackGeometry` that
    `watch` gave; `mask` (*batch) is true where a track counts. `compute()` gives a dict of float64 scalars,
    one per field. The sums stay float64 where the module that holds the metric becomes bfloat16.

    Args:
        dim: the layer axis of a tensor of tracks.
        zero_step: as in `track_geometry`.
        undefined: tracks whose field is NaN (NaN in the track, no step of any length, one step for the
            angles): `"propagate"` makes the mean NaN, `"skip"` leaves them out of it.
        kwargs: those of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `track_geometry`; a mask of another shape.

    Not differentiable. Of its fields lss, turning_angle and action are better when lower, straightness and
    adjacent_cosine when higher.

    Source: as `track_geometry`.

    Example:
        >>> import torch
        >>> from geodesic_fast.integrations.torchmetrics import TrackGeometry
        >>> metric = TrackGeometry()
        >>> metric.update(torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]]))
        >>> round(metric.compute()["lss"].item(), 4)
        1.4142
    """

    higher_is_better: bool | None = None
    fields: tuple[str, ...] = Geometry._fields
    sums: Tensor
    counts: Tensor

    def __init__(self, *, dim: int = 0, zero_step: str = "skip", undefined: str = "propagate", **kwargs: Any):
        super().__init__(**kwargs)
        check_zero_step(zero_step)
        check_choice("undefined", undefined, _UNDEFINED)
        self.dim, self.zero_step, self.undefined = dim, zero_step, undefined
        self._keep_apart(dim=dim, zero_step=zero_step, undefined=undefined)
        for state in ("sums", "counts"):
            zeros = torch.zeros(len(self.fields), dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, tracks: Given, mask: Tensor | None = None) -> None:
        """Add tracks (n+1, *batch, d), or numbers measured before."""
        if not isinstance(tracks, Geometry):
            tracks = track_geometry(tracks, dim=self.dim, zero_step=self.zero_step)
        if mask is not None:
            mask_mistakes.check_mask("mask", mask, tuple(tracks.lss.shape))
            real = mask.to(tracks.lss.device).bool()
            tracks = Geometry._make(field[real] for field in tracks)
        values = torch.stack([getattr(tracks, name).detach().reshape(-1).double() for name in self.fields])
        values = values.to(self.sums.device)  # (fields, tracks)
        counts = torch.ones_like(values, dtype=torch.bool)
        if self.undefined == "skip":
            counts = ~values.isnan()
        self.sums += values.where(counts, 0.0).sum(1)
        self.counts += counts.sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every field; NaN where no track has been counted."""
        return dict(zip(self.fields, self.sums / self.counts, strict=True))


class LineShapeScore(TrackGeometry):
    """Mean line-shape score over all tracks of all batches and processes; 1 is straight, lower is straighter.

    mean LSS = (sum over tracks of LSS) / (number of tracks)

    Updated and made as `TrackGeometry`; `compute()` gives a float64 scalar. A track whose unit steps cancel
    has LSS inf, and one such track makes the mean inf.

    Raises:
        TypeError, ValueError: as `TrackGeometry`.

    Not differentiable: for a penalty take `lss` itself. Lower is straighter.

    Source: Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch
        >>> from geodesic_fast.integrations.torchmetrics import LineShapeScore
        >>> metric = LineShapeScore()
        >>> metric.update(torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]]))
        >>> round(metric.compute().item(), 4)
        1.4142
    """

    higher_is_better: bool | None = False
    fields: tuple[str, ...] = ("lss",)
    plot_lower_bound = 1.0

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the mean; NaN where no track has been counted."""
        return (self.sums / self.counts)[0]


class StepProfile(_Metric):
    """Mean of every number of `step_geometry`, step by step, over all tracks of all batches and processes.

    number of step l = (sum over the tracks that have it) / (number of those tracks)

    `update(tracks, mask=None)` takes what `step_geometry` takes, or a `geodesic_fast.StepProfile` that
    `watch` gave; `mask` (*batch) is true where a track counts. `compute()` gives a dict of float64 tensors
    (n,), of turning_cosine (n-1,): a track without a cosine at a step, for a zero state or a step of length
    zero, is left out there.

    Args:
        steps: n, the number of steps of every track.
        dim: the layer axis of a tensor of tracks.
        kwargs: those of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `step_geometry`; tracks of another number of steps; a mask of another shape.

    Not differentiable. None of the numbers is better high or low by itself.

    Source: as `step_geometry`.

    Example:
        >>> import torch
        >>> from geodesic_fast.integrations.torchmetrics import StepProfile
        >>> metric = StepProfile(steps=2)
        >>> metric.update(torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]], [[3.0, 4.0]]]))
        >>> metric.compute()["length"].tolist()
        [2.0, 4.0]
    """

    higher_is_better: bool | None = None
    sums: Tensor
    counts: Tensor

    def __init__(self, steps: int, *, dim: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        mistakes.check_count("steps", steps)
        self.steps, self.dim = steps, dim
        self._keep_apart(steps=steps, dim=dim)
        for state in ("sums", "counts"):
            zeros = torch.zeros(len(StepGeometry._fields), steps, dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, tracks: Tensor | Sequence[Tensor] | Profile, mask: Tensor | None = None) -> None:
        """Add tracks (n+1, *batch, d), or a profile measured before."""
        if not isinstance(tracks, Profile):
            steps = step_geometry(tracks, dim=self.dim)
            if mask is not None:
                mask_mistakes.check_mask("mask", mask, tuple(steps.length.shape[1:]))
            tracks = steps.profile(mask)
        if len(tracks.mean.length) != self.steps:
            raise ValueError(
                f"tracks must have {self.steps} steps, as steps= says, got {len(tracks.mean.length)}: use "
                "one metric for each number of layers."
            )
        for state, rows in zip((self.sums, self.counts), tracks.sums(), strict=True):
            for own, row in zip(state, rows, strict=True):
                own[: len(row)] += row.to(own)

    def compute(self) -> dict[str, Tensor]:
        """Return the means of every step; NaN where no track has the number."""
        means = dict(zip(StepGeometry._fields, self.sums / self.counts, strict=True))
        return means | {"turning_cosine": means["turning_cosine"][:-1]}


class OptimalTransportScore(_Metric):
    """Optimal transport score of the map from first to last layer, over all points of all batches and
    processes.

    OTS = #{ i : T(x_i) = f(x_i) } / m, with T the exact optimal transport map of all m points at once

    The score of all points is no mean of batch scores, so the points themselves are kept: 2 m d values, on
    the device of the metric, or with `compute_on_cpu=True` on the CPU. Each process keeps its own, and all
    search together, as `geodesic_fast.ots` does with `group=`.

    `update(x, y=None, mask=None)` takes points and their images (*batch, d), or tracks alone, whose first
    and last layer are used. `compute()` gives a float64 scalar.

    Args:
        kwargs: those of `torchmetrics.Metric`. A `dist_sync_fn` gathers the points to every process.

    Raises:
        TypeError, ValueError: as `geodesic_fast.ots`; a mask of another shape; points of another width than
            those before. A batch without points adds none.

    Not differentiable. Higher is better: 1 means that the network's map is an optimal transport map.

    Source: Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch
        >>> from geodesic_fast.integrations.torchmetrics import OptimalTransportScore
        >>> metric = OptimalTransportScore()
        >>> metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [7.0]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    x: list[Tensor] | Tensor
    y: list[Tensor] | Tensor
    width: Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._group: Any = None  # of the processes that are synced, each of which keeps its points
        self._keep_apart()
        for state in ("x", "y"):  # each (m d,): a process without points can gather nothing else
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.add_state("width", torch.zeros((), dtype=torch.int64), dist_reduce_fx=_common_width)

    def sync(self, dist_sync_fn: Any = None, process_group: Any = None, *args: Any, **kwargs: Any) -> None:
        """Leave the points where they are, unless they are to be gathered by a function of one's own."""
        gather = dist_sync_fn or self.dist_sync_fn or _stay
        super().sync(gather, process_group, *args, **kwargs)
        apart = self._is_synced and gather is _stay
        self._group = (process_group or self.process_group or dist.group.WORLD) if apart else None

    def unsync(self, *args: Any, **kwargs: Any) -> None:
        """Go back to this process alone."""
        super().unsync(*args, **kwargs)
        self._group = None if not self._is_synced else self._group

    def update(
        self, x: Tensor | Sequence[Tensor], y: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Add points and their images, or the ends of tracks."""
        if y is None:
            x, y = Tracks.of(x, name="x").ends()
        if hold_no_pairs(x, y):
            return
        check_points(x, y)
        assert isinstance(x, Tensor)
        assert isinstance(y, Tensor)
        points = [end.detach().clone().reshape(-1, end.shape[-1]) for end in (x, y)]  # (m, d)
        if mask is not None:
            mask_mistakes.check_mask("mask", mask, tuple(x.shape[:-1]))
            real = mask.to(x.device).bool().reshape(-1)
            points = [end[real] for end in points]
        if int(self.width) not in (_NONE, x.shape[-1]):
            raise _several_widths()
        assert isinstance(self.x, list)
        assert isinstance(self.y, list)
        self.x.append(points[0].reshape(-1).to(self.device))
        self.y.append(points[1].reshape(-1).to(self.device))
        self.width.fill_(x.shape[-1])

    def compute(self) -> Tensor:
        """Return the score of all points that were added; NaN where there are none."""
        group = self._group if self._is_synced else None
        with processes_of(group, "OptimalTransportScore") as processes:
            width = int(_common_width(torch.tensor(processes.numbers(int(self.width)))))
            ends = [torch.cat(end) if isinstance(end, list) and end else end for end in (self.x, self.y)]
            if not any(processes.numbers(len(ends[0]))):
                return torch.tensor(torch.nan, dtype=torch.float64, device=self.device)
            if width == _SEVERAL:
                raise _several_widths()
        first, last = (torch.as_tensor(end).reshape(-1, width) for end in ends)  # (m, d)
        return torch.tensor(ots(first, last, group=group).score, dtype=torch.float64, device=self.device)


_NONE, _SEVERAL = 0, -1  # in place of a width


def _stay(state: Tensor, group: object = None) -> list[Tensor]:
    return [state]


def _common_width(widths: Tensor) -> Tensor:
    """The one width of points that were added apart, in batches or in processes."""
    found = widths[widths != _NONE].unique()
    return found[0] if len(found) == 1 else widths.new_tensor(_SEVERAL if len(found) else _NONE)


def _several_widths() -> ValueError:
    return ValueError(
        "x must have the same width in all batches and processes, got several: a transport score compares "
        "points of one space, so use one metric for each width."
    )
