# SPDX-License-Identifier: MIT
"""What can be measured: a title, what its tracks are, and a pass over them in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from geodesic_fast import StepProfile, TrackGeometry
from geodesic_fast._command_line import Failure, UserError, is_out_of_memory
from geodesic_fast.recording import watch
from geodesic_fast.recording.watch import MeasuredGroup


@dataclass(frozen=True)
class Options:
    """The options of the command line that decide what is measured and how."""

    layers: list[str] | None
    dim: int
    key: str | None
    random_weights: bool
    tokens: int
    batch: int
    limit: int
    zero_step: str
    device: torch.device
    seed: int
    ots_points: int  # 0: without the score
    ots_seconds: float
    blur: float | None = None  # of the soft transport score; None: without it
    backend: str = "tiles"
    repeats: str = "raise"
    without_special: bool = False
    skip_tokens: int = 0
    ots_curve: bool = False


class Ends:
    """The first and the last states of the tracks that `ots` scores: all, or so many chosen at random."""

    def __init__(self, most: int, seed: int):
        self.most, self.seen = most, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.empty(0)  # the lowest stay
        self._points: list[Tensor] = []  # two, each (m, d)

    def add(self, first: Tensor, last: Tensor) -> None:
        """Take points (*batch, d) and their images."""
        ends = [end.reshape(-1, end.shape[-1]).cpu() for end in (first, last)]
        self.seen += len(ends[0])
        self._keys = torch.cat([self._keys, torch.rand(len(ends[0]), generator=self._generator)])
        if self._points:
            ends = [torch.cat(pair) for pair in zip(self._points, ends, strict=True)]
        if len(self._keys) > self.most:
            kept = self._keys.argsort()[: self.most].sort().values
            self._keys, ends = self._keys[kept], [end[kept] for end in ends]
        self._points = ends

    def points(self) -> tuple[Tensor, Tensor]:
        """Return both ends, each (m, d)."""
        return self._points[0], self._points[1]


@dataclass
class Source:
    """`measure()` yields (units done, name of the group of layers, numbers of its tracks)."""

    title: str
    about: str
    total: int
    unit: str
    measure: Callable[[], Iterator[tuple[int, str, TrackGeometry]]]
    layers: dict[str, list[str]] = field(default_factory=dict)  # per group, the layer that each step ends in
    profiles: dict[str, list[StepProfile]] = field(default_factory=dict)  # per group, of the pieces
    shuffled: dict[str, list[Tensor]] = field(default_factory=dict)  # per group, LSS of layers shuffled
    ends: dict[str, Ends] = field(default_factory=dict)  # per group of layers

    def take_ends(self, name: str, first: Tensor, last: Tensor, options: Options) -> None:
        """Add points (*batch, d) of a group of layers and their images to those that are scored."""
        if options.ots_points:
            ends = self.ends.setdefault(name, Ends(options.ots_points, options.seed))
            ends.add(first, last)


def watched(
    source: Source,
    model: nn.Module,
    options: Options,
    batches: Callable[[], Iterator[tuple[int, dict]]],
    without_ids: Sequence[int] | None = None,
) -> Iterator[tuple[int, str, TrackGeometry]]:
    """Run a model over batches of keyword arguments and yield the numbers of its tracks."""
    model.eval().to(options.device)
    try:
        watching = watch(
            model, options.layers, zero_step=options.zero_step, ends=options.ots_points > 0,
            repeats=options.repeats, without_ids=without_ids, profile=True,
            tokens=slice(options.skip_tokens, None) if options.skip_tokens else None,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise UserError(_with_our_options(error)) from error
    with torch.inference_mode():
        for count, batch in batches():
            for group in _groups(watching, model, batch, options):
                name = f"{group.names[0]} to {group.names[-1]}"
                assert group.profile is not None
                source.layers[name] = group.names[1:]
                source.profiles.setdefault(name, []).append(group.profile)
                if group.ends is not None:
                    source.take_ends(name, *group.ends, options)
                yield count, name, group.geometry
                count = 0


def _groups(watching: watch, model: nn.Module, batch: dict, options: Options) -> list[MeasuredGroup]:
    """One pass; what the watch refuses is a mistake in the call, what the model raises is none."""
    try:
        with watching:
            model(**{name: value.to(options.device) for name, value in batch.items()})
    except Exception as error:
        if error is watching.refused:
            raise UserError(_with_our_options(error)) from error
        if is_out_of_memory(error):
            raise
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        told = next(iter(str(error).splitlines()), "")
        raise Failure(
            f"{type(model).__name__} must run on {shapes}, got {type(error).__name__}: {told}: try "
            "fewer --tokens, a smaller --batch, or a model of the kind that reads such input."
        ) from error
    try:
        return watching.groups
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(_with_our_options(error)) from error


_OUR_OPTIONS = {
    "repeats='append'": "--repeats append",
    "missing='skip'": "fewer --layers",
    "pass mask= with one value per track instead, or a batch of another size": "pass another --batch",
    "tokens and without_ids need": "--skip-tokens and --without-special need",
}


def _with_our_options(error: Exception) -> str:
    """A sentence of the library with its remedies in the words of the command line."""
    told = re.sub(r"layers=('[^']*'(?:, '[^']*')*)", r"--layers \1", str(error))
    for theirs, ours in _OUR_OPTIONS.items():
        told = told.replace(theirs, ours)
    return told
