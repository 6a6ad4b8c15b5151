# SPDX-License-Identifier: MIT
"""What can be measured: a title, what its tracks are, and a pass over them in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from geodesic_fast import TrackGeometry
from geodesic_fast.recording import watch


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


@dataclass
class Source:
    """`measure()` yields (units done, name of the group of layers, numbers of its tracks)."""

    title: str
    about: str
    total: int
    unit: str
    measure: Callable[[], Iterator[tuple[int, str, TrackGeometry]]]
    steps: dict[str, int] = field(default_factory=dict)  # per group of layers


def watched(
    source: Source, model: nn.Module, options: Options, batches: Callable[[], Iterator[tuple[int, dict]]]
) -> Iterator[tuple[int, str, TrackGeometry]]:
    """Run a model over batches of keyword arguments and yield the numbers of its tracks."""
    model.eval().to(options.device)
    watching = watch(model, options.layers, zero_step=options.zero_step)
    with torch.inference_mode():
        for count, batch in batches():
            with watching:
                model(**{name: value.to(options.device) for name, value in batch.items()})
            for group in watching.groups:
                name = f"{group.names[0]} to {group.names[-1]}"
                source.steps[name] = len(group.names) - 1
                yield count, name, group.geometry
                count = 0
