# SPDX-License-Identifier: MIT
"""What a reproduction writes besides pictures: JSON, CSV, and the table in the layout of the paper."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from geodesic_fast import info
from geodesic_fast._report import as_json as render
from geodesic_fast.reproduce import findings, published, summary
from geodesic_fast.reproduce.experiments import MOMENTUM, Settings
from geodesic_fast.reproduce.findings import Finding
from geodesic_fast.reproduce.published import Value
from geodesic_fast.reproduce.summary import Network, Summary

SHOWN = {  # in the table: title, digits, scale
    "test_accuracy": ("test accuracy %", 1, 100.0),
    "train_accuracy": ("train accuracy %", 1, 100.0),
    "ots": ("OTS", 3, 1.0),
    "efficiency": ("W2 efficiency", 3, 1.0),
    "lss": ("LSS", 2, 1.0),
    "lss_shuffled": ("LSS, layers shuffled", 2, 1.0),
    "bending": ("bending", 2, 1.0),
    "detour": ("detour", 3, 1.0),
    "gap": ("geodesic gap", 2, 1.0),
}
COLUMNS = (
    "kind", "gamma", "seed", "stage", "moment", "n", "d", "m", "train_accuracy", "test_accuracy", "lss_mean",
    "lss_std", "lss_low", "lss_high", "lss_shuffled", "random_steps", "independent_states", "ots",
    "efficiency", "certified", "gap", "bending", "detour", "variability_first", "variability_last",
    "nearest_mean_error_last",
)  # fmt: skip


def paper_table(networks: Sequence[Network], settings: Settings) -> list[tuple[str, ...]]:
    """Return the head and a row for each figure and kind: ours over seeds, [published] where there is one."""
    gammas = summary.gammas_of(networks)
    rows = [("figure", *(f"gamma {gamma:g}" for gamma in gammas))]
    for name, (title, digits, scale) in SHOWN.items():
        for kind in summary.kinds_of(networks):
            cells = []
            for gamma in gammas:
                ours = summary.summarise(summary.of(networks, kind, gamma), name)
                theirs = published.row(settings.experiment, kind, gamma).get(name)
                cells.append(_cell(ours, theirs, digits, scale))
            rows.append((f"{kind} {title}", *cells))
    return rows


def _cell(ours: Summary, theirs: Value | None, digits: int, scale: float) -> str:
    told = _with_spread(ours.mean, ours.std_over_seeds, digits, scale)
    if theirs is None:
        return told
    return f"{told} [{_with_spread(theirs.mean, theirs.std or math.nan, digits, scale)}]"


def _with_spread(mean: float, std: float, digits: int, scale: float) -> str:
    if math.isnan(mean):
        return "undefined"
    spread = "" if math.isnan(std) else f" ± {scale * std:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}"


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a page of documentation."""
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others)) + "\n"


def as_csv(networks: Sequence[Network]) -> str:
    """Return one row for each network, moment and stage; what is undefined is empty."""
    stored = io.StringIO()
    writer = csv.writer(stored, lineterminator="\n")
    writer.writerow(COLUMNS)
    for network in networks:
        for moment in ("before", "after"):
            for at, stage in enumerate((network[moment] or {"stages": []})["stages"], start=1):
                writer.writerow(_line(network, moment, at, stage))
    return stored.getvalue()


def _line(network: Network, moment: str, at: int, stage: Mapping[str, Any]) -> list[Any]:
    score, collapse, transport = stage["lss"], stage["collapse"], stage["transport"] or {}
    of_transport = ("score", "efficiency", "certified", "gap", "bending", "detour")
    return [
        network["kind"], network["gamma"], network["seed"], at, moment, stage["n"], stage["d"], stage["m"],
        network[moment]["train_accuracy"], network[moment]["test_accuracy"],
        *(score[key] for key in ("mean", "std", "low", "high", "shuffled")),
        score["random_steps"], score["independent_states"],
        *(transport.get(key) for key in of_transport),
        collapse["variability"][0], collapse["variability"][-1], collapse["nearest_mean_error"][-1],
    ]  # fmt: skip


def as_json(
    networks: Sequence[Network], settings: Settings, judged: Sequence[Finding], left_out: Mapping[float, str]
) -> str:
    """Return every figure of every network, the summaries, the published values and the findings."""
    gammas = summary.gammas_of(networks)
    content = {
        "settings": settings.plain(),
        "seeds": sorted({network["seed"] for network in networks}),
        "optimizer": {"name": "SGD", "momentum": MOMENTUM, "schedule": "cosine to 0, by epochs"},
        "published": {"source": published.SOURCE, "rows": _published(settings)},
        "findings": {"rule": findings.RULE, "left_out": {f"{g:g}": why for g, why in left_out.items()},
                     "judged": [dataclasses.asdict(finding) for finding in judged]},
        "summaries": [
            {"kind": kind, "gamma": gamma, "figure": name,
             **dataclasses.asdict(summary.summarise(summary.of(networks, kind, gamma), name))}
            for name in SHOWN for kind in summary.kinds_of(networks) for gamma in gammas
        ],
        "networks": [{k: v for k, v in network.items() if k != "settings"} for network in networks],
        "versions": info.versions(),
        "engine": info.this_engine(),
    }  # fmt: skip
    return render(content) + "\n"


def _published(settings: Settings) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) for row in published.ROWS[settings.experiment]]
