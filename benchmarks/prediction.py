# SPDX-License-Identifier: MIT
"""Predictions from machine code beside what the benchmarks measured on a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PREDICTIONS = Path(__file__).parent / "predictions"  # by architecture: sass_report-sm_90.json
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "float", "float64": "double"}
FORWARD, BOTH = (
    "% of bandwidth",
    "bwd % of floor",
)  # the second: one reading forward, then reading and writing
KERNELS = {  # of a benchmark: kernels forward and backward, with their arguments behind the type
    "bench_lss": (
        "lss_track_geometry_forward::forward_kernel<{}, true, false>",
        "lss_track_geometry_backward::backward_kernel<{}, true, false>",
    ),
    "bench_chord_deviation": (
        "chord_deviation::forward_kernel<{}, true>",
        "chord_deviation::backward_kernel<{}, true>",
    ),
}


@dataclass(frozen=True)
class Compared:
    """A share of a memory copy's bandwidth, as predicted and as measured."""

    case: str
    what: str
    predicted: float
    measured: float

    def line(self) -> str:
        """Return a line of the table."""
        return f"{self.case:<40} {self.what:<18} {self.predicted:>9.0%} {self.measured:>9.0%}"


HEAD = f"{'case':<40} {'what':<18} {'predicted':>9} {'measured':>9}"


def predictions(arch: str) -> dict[str, float]:
    """Return the share of each kernel that is predicted for an architecture; empty where none is kept."""
    path = PREDICTIONS / f"sass_report-{arch}.json"
    if not path.exists():
        return {}
    return {kernel["kernel"]: kernel["share"] for kernel in json.loads(path.read_text())["kernels"]}


def compared(measured: Path, arch: str) -> Iterator[Compared]:
    """Yield what is predicted and measured of each benchmark's cases whose results lie in a folder."""
    shares = predictions(arch)
    for name, (forward, backward) in KERNELS.items():
        path = measured / f"{name}-cuda.json"
        if not path.exists():
            continue
        for row in json.loads(path.read_text())["rows"]:
            dtype = next(short for long, short in DTYPES.items() if f" {long} " in f" {row['case']} ")
            found = [shares.get(kernel.format(dtype)) for kernel in (forward, backward)]
            if None in found:
                continue
            once, twice = found
            yield Compared(row["case"], f"{name[6:]} forward", once, row[FORWARD] / 100)
            both = 3 / (1 / once + 2 / twice)
            yield Compared(row["case"], f"{name[6:]} with backward", both, row[BOTH] / 100)
