# SPDX-License-Identifier: MIT
"""Tracks of a network measured during its own pass, and never stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geodesic_fast._results import compared_by_value
from geodesic_fast._validation import check_zero_step
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.step_geometry import StepProfile
from geodesic_fast.metrics.track_geometry import TrackGeometry
from geodesic_fast.metrics.wasserstein_curve import CurveInParts, WassersteinCurve
from geodesic_fast.recording import mask_mistakes, mistakes
from geodesic_fast.recording.accumulator import TrackAccumulator
from geodesic_fast.recording.layers import Layers
from geodesic_fast.recording.masks import Call, Tokens, counting, narrowed, samples_first
from geodesic_fast.recording.passes import Recording, Run
from geodesic_fast.recording.states import State


@compared_by_value
@dataclass(frozen=True, eq=False)
class MeasuredGroup:
    """Layers in a row whose states have one shape, and the numbers of their tracks."""

    names: list[str]
    width: int
    geometry: TrackGeometry
    ends: tuple[Tensor, Tensor] | None = None  # x^(0) and x^(n), with ends=True
    profile: StepProfile | None = None  # of each step, with profile=True
    curve: WassersteinCurve | None = None  # of the layers as sets of points, with curve=True


class _Keeper(TrackAccumulator):
    """Tracks, and where it is asked for the curve of measures of those that count."""

    def __init__(self, curve: bool, mask: Tensor | None, **options: Any):
        super().__init__(mask=mask, **options)
        self._curve = CurveInParts() if curve else None
        self._counts = mask

    @outside_graphs
    @torch.no_grad()
    def push(self, state: Tensor) -> None:
        """Take the next layer, (*batch, d)."""
        super().push(state)
        if self._curve is not None:
            points = state.detach().reshape(-1, state.shape[-1])
            if self._counts is not None:
                points = points[self._counts.to(device=points.device, dtype=torch.bool).reshape(-1)]
            mistakes.check_curve_points(points, self.points - 1)
            self._curve.push(points.clone())

    def measured_curve(self) -> WassersteinCurve | None:
        """The curve of measures, where it is asked for."""
        return None if self._curve is None else self._curve.finish()


class watch(Recording[_Keeper, MeasuredGroup]):
    """Measure the tracks of a network while it runs, layer by layer, without storing them.

    The numbers of `track_geometry` for x^(0) = the input of the first layer that runs and x^(l) = the
    output of the l-th, held in about three states per track however deep the network is.

    Args:
        model: the module that is called, or one that holds it.
        layers: as for `record`. `None`: the one stack of equal blocks; of a transformer, its blocks, so that
            x^(n) is the residual stream before the final norm.
        mask: which tracks count. `"auto"`: the `attention_mask` (of torch's own layers: the
            `key_padding_mask`) with which the modules around the layers are called, outermost first; masks of
            (batch, tokens), of (batch, 1, tokens, tokens) and those that are added to scores are read, and
            with a cache of earlier tokens those of the pass are taken. A name: that argument of the call, for
            example `"pixel_mask"`. A tensor (*batch), true where a track counts. `None`: every track counts.
        tokens: the positions of tokens that count in a pass, a slice or indices: `slice(1, None)` leaves out
            a class token. `None`: all. Which axis of (*batch) holds the tokens follows from the calls around
            the layers, and is asked for where it does not.
        without_ids: tokens with one of these `input_ids` do not count, for example those of separators.
        zero_step: as in `track_geometry`; bf16 residual streams do hold steps of length zero.
        inputs, flatten, repeats, missing, state: as for `record`.
        passes: `"last"`: the numbers of the last whole pass; `"first"`: of the first, after which the hooks
            leave; `"all"`: of all passes of the block together, as of a whole `generate`.
        when: `"always"`, or `"training"`: only passes of a model in training mode with gradients enabled.
        copy: copy the two states that are held. `False` holds the tensors of the network, and refuses one
            that changes in place before the next layer has run. In `torch.inference_mode`, where torch does
            not see such changes, states are copied all the same.
        ends: keep copies of x^(0) and x^(n), in `.ends`: `ots(*w.ends)` is the optimal transport score.
        profile: measure every step, in `.profile`; holds one more state.
        curve: measure the curve of measures, in `.curve`, by exact assignments between neighbouring layers
            as they run, which takes its time; holds copies of three more states.

    Returns:
        A context manager. After a pass, `.geometry` is a `TrackGeometry` of (*batch) tensors, or
        (tracks that count,) under a mask; `.ends` are x^(0) and x^(n), where asked for, and `.profile` is a
        `StepProfile`: the means over tracks, layer by layer, of what `step_geometry` gives. `.groups` holds
        one `MeasuredGroup` per shape of a network that changes its width, `.passes` the groups of each pass;
        `.names` says where each point was taken.

    Raises:
        ValueError: nothing matches `layers`; `.geometry` of a network of several widths, and of a pass whose
            mask of the call could not be read or fits in two ways: a warning says so when the pass ends, and
            the network goes on.
        RuntimeError: a layer ran twice or not at all; a state changed in place; no pass yet.

    Not differentiable, and no part of the network's own gradient: training goes on as without it.

    Example:
        >>> import torch
        >>> from geodesic_fast.recording import watch
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
        >>> with watch(model, layers="*") as w:
        ...     _ = model(torch.randn(5, 8))
        >>> w.geometry.lss.shape
        torch.Size([5])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        mask: Tensor | str | None = "auto",
        tokens: Tokens = None,
        without_ids: Sequence[int] | None = None,
        zero_step: str = "skip",
        inputs: bool = True,
        flatten: str = "auto",
        repeats: str = "raise",
        missing: str = "raise",
        state: State = None,
        passes: str = "last",
        when: str = "always",
        copy: bool = False,
        ends: bool = False,
        profile: bool = False,
        curve: bool = False,
    ):
        mask_mistakes.check_watch_mask(mask)
        mask_mistakes.check_tokens(tokens)
        mask_mistakes.check_without_ids(without_ids)
        check_zero_step(zero_step)
        self._mask, self._tokens, self._without_ids = mask, tokens, without_ids
        self._zero_step, self._copy, self._ends, self._profile = zero_step, copy, ends, profile
        self._curve = curve
        super().__init__(
            model, layers, inputs=inputs, flatten=flatten, repeats=repeats, missing=missing, state=state,
            passes=passes, when=when,
        )  # fmt: skip

    @property
    def measured(self) -> bool:
        """Whether a whole pass has been measured."""
        return any(self._done) and self.refused is None

    def forget(self) -> None:
        """Forget the passes that were measured."""
        self._done, self.refused = [], None

    def _keeper(self, point: Tensor, calls: list[Call]) -> _Keeper:
        batch = tuple(point.shape[:-1])
        counts = counting(self._mask, calls, batch)
        first = samples_first(self._layers)
        counts = narrowed(counts, batch, point.device, self._tokens, self._without_ids, calls, first)
        options = {"zero_step": self._zero_step, "copy": self._copy, "profile": self._profile}
        return _Keeper(self._curve, counts, **options)

    def _let_go(self, run: Run[_Keeper]) -> None:
        if len(run.names) > 1:
            run.ends = run.kept.ends if self._ends else None
            run.kept.close()

    def _group(self, run: Run[_Keeper]) -> MeasuredGroup:
        assert run.kept.shape is not None
        profile = run.kept.profile if self._profile else None
        width, curve = run.kept.shape[-1], run.kept.measured_curve()
        return MeasuredGroup(run.names, width, run.kept.geometry, run.ends, profile, curve)

    def _joined(self, groups: list[MeasuredGroup]) -> MeasuredGroup:
        fields = zip(*(group.geometry for group in groups), strict=True)
        geometry = TrackGeometry._make(torch.cat([part.reshape(-1) for part in parts]) for parts in fields)
        ends = [group.ends for group in groups if group.ends is not None]
        first, last = (
            [torch.cat([end.reshape(-1, end.shape[-1]) for end in side]) for side in zip(*ends, strict=True)]
            if ends
            else (None, None)
        )
        both = None if first is None or last is None else (first, last)
        profiles = [group.profile for group in groups if group.profile is not None]
        profile = StepProfile.joined(profiles) if profiles else None
        return MeasuredGroup(groups[0].names, groups[0].width, geometry, both, profile)

    @property
    def geometry(self) -> TrackGeometry:
        """The numbers of the tracks of a network of one width."""
        return self._only_group.geometry

    @property
    def profile(self) -> StepProfile:
        """What each step does on average over the tracks, of a watch with profile=True."""
        profile = self._only_group.profile
        if profile is None:
            raise mistakes.no_profile()
        return profile

    @property
    def curve(self) -> WassersteinCurve:
        """The curve of measures that the layers run through, of a watch with curve=True.

        That of several passes is in none: `.passes` has one for each.
        """
        curve = self._only_group.curve
        if curve is None:
            raise mistakes.no_curve()
        return curve

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """x^(0) and x^(n), each (*batch, d) or (tracks that count, d), of a watch with ends=True."""
        ends = self._only_group.ends
        if ends is None:
            raise mistakes.no_ends()
        return ends
