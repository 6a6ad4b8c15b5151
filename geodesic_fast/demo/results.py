# SPDX-License-Identifier: MIT
"""What the demo writes and prints besides pictures: results.json, the table, whole files only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from geodesic_fast import info
from geodesic_fast._report import as_json as render
from geodesic_fast._report import columns
from geodesic_fast.demo import finding, training
from geodesic_fast.demo.measuring import LineShape
from geodesic_fast.demo.training import Outcome, Settings

COLUMNS = (
    "network", "L2", "train acc.", "test acc.", "LSS before", "LSS", "OTS before", "OTS", "W2 efficiency",
    "margin",
)  # fmt: skip


def as_json(settings: Settings, outcomes: Sequence[Outcome], seconds: float, complete: bool) -> str:
    """Return every number of the run; NaN becomes null and infinity the string "inf"."""
    content: dict[str, Any] = {
        "complete": complete,
        "seed": settings.seed,
        "options": dataclasses.asdict(settings),
        "training": {
            "optimizer": "SGD",
            "momentum": training.MOMENTUM,
            "batch": training.BATCH,
            "schedule": "cosine to 0",
            "l2": "weight_decay of torch.optim.SGD on every parameter",
        },
        "versions": info.versions(),
        "engine": info.this_engine(),
        "networks": [_network(outcome) for outcome in outcomes],
        "seconds": seconds,
    }
    if complete:
        judged = finding.judge(outcomes)
        content["finding"] = {"rule": finding.RULE, **dataclasses.asdict(judged)}
    return render(content) + "\n"


def _network(outcome: Outcome) -> dict[str, Any]:
    return {
        "kind": outcome.kind,
        "l2": outcome.l2,
        "before": dataclasses.asdict(outcome.before),
        "after": dataclasses.asdict(outcome.after),
        "history": [dataclasses.asdict(epoch) for epoch in outcome.history],
        "seconds": outcome.seconds,
    }


def table(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Return one row of text per network, in the order of `COLUMNS`."""
    return [
        (
            outcome.kind,
            f"{outcome.l2:g}",
            f"{outcome.after.train_accuracy:.1%}",
            f"{outcome.after.test_accuracy:.1%}",
            finding.figure(outcome.before.lss.mean),
            _mean_and_std(outcome.after.lss),
            finding.figure(outcome.before.ots.score, 3) if outcome.before.ots else "undefined",
            finding.figure(outcome.after.ots.score, 3) if outcome.after.ots else "undefined",
            finding.figure(outcome.after.ots.efficiency, 3) if outcome.after.ots else "undefined",
            finding.figure(outcome.after.margin.median),
        )
        for outcome in outcomes
    ]


def _mean_and_std(lss: LineShape) -> str:
    if math.isnan(lss.mean):
        return "undefined"
    return f"{finding.figure(lss.mean)} ± {finding.figure(lss.std)}"


def to_compare_with(outcomes: Sequence[Outcome]) -> str:
    """Say what scores mean at this depth, width and number of samples."""
    n, d = len(outcomes[0].tracks_after) - 1, outcomes[0].tracks_after.shape[-1]
    counted = sorted(
        {measured.ots.samples for o in outcomes for measured in (o.before, o.after) if measured.ots}
    )
    points = f" OTS is of m = {counted[0]} samples in d = {d} dimensions." if counted else ""
    return (
        f"At n = {n} steps LSS is 1 for straight lines, sqrt(n) = {n**0.5:.2f} for steps in random "
        f"directions, and n = {n} for independent states.{points}"
    )


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Lay out the table in columns for a terminal."""
    head, *lines = columns([COLUMNS, *rows])
    return "\n".join([head, "-" * len(head), *lines])
