# SPDX-License-Identifier: MIT
"""What `ots` takes on machines that are not at hand: a model of its stages, from parts measured here.

python benchmarks/cluster/model.py [--sizes 20000 40000 60000] [--features 64]

On one thread, in CPU seconds: the rate of products, each pass for a pair, and whole problems. Their sparse
search is fitted by a power of m, and what is left is what the host does for each point. Then every size is
predicted, that of problems that were measured too, so that the model is seen to hold where it can be seen.
Rates of GPUs are those of data sheets: nothing about them is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geodesic_fast import OTSResult, ots
from geodesic_fast.transport import passes, planner, potentials, products
from geodesic_fast.transport.points import power_below
from geodesic_fast.transport.sparse_assignment import SparseGraph

sys.path.insert(0, str(Path(__file__).parent.parent))
from measure import peak_above_now, report
from ots_problems import make

SIZES = [(20_000, 256), (100_000, 512), (100_000, 3072), (300_000, 64), (1_000_000, 512)]
ROUNDS = 2  # of sparse search and pricing: one or two on the problems that were measured
GIB = 2**30
WIDE = 4000, 512  # of a tile whose products stand for those of many features
# Data sheet of the H100 SXM: 67 TFLOP/s, 3.35 TB/s, 450 GB/s of NVLink each way; and what libraries reach of
# it, which is assumed.
H100_FULL, H100_MEMORY, H100_WIRE, REACHED = 67e12, 3.35e12, 450e9, 0.75


@dataclass(frozen=True)
class Machine:
    """Rates of one process, which is a thread or a GPU, and how many there are."""

    name: str
    processes: int
    full: float  # operations a second, float32
    softmin: float  # seconds a pair, as are the two below
    best: float
    listed: float
    wire: float  # bytes a second between processes


@dataclass(frozen=True)
class Host:
    """What one process does for all while the others wait."""

    point: float  # seconds: edges, costs, sorting
    search: tuple[float, float]  # factor and power of m of the sparse search

    def search_seconds(self, m: int) -> float:
        """Return the seconds of the sparse search."""
        return self.search[0] * m ** self.search[1]


def terms(m: int, d: int, machine: Machine, host: Host, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the seconds of each part of one score of points of which few stay at their own."""
    tile_rows = power_below((2 << 30) // (8 * m + 16 * d), 16, 1024)
    every = power_below(m // potentials._SAMPLED_ROWS, 1, tile_rows)
    sampled = (potentials.usual_schedule(d).iterations - potentials._WHOLE_STEPS) / every
    pairs, product = m * m / machine.processes, 2 * m * m * d / machine.processes
    each_pass = machine.softmin * (sampled + 2) + machine.best + machine.listed * (2 + rounds)
    reduced = m * (8 + 4) * (4 + 2) + m * 4 * potentials._GROUPS  # bytes: sums, maxima, thresholds
    gathered = 4 * m * d + 12 * m * (potentials.ROW_NEIGHBOURS + potentials.COLUMN_NEIGHBOURS)
    return {
        "products": product * (sampled + 3 + rounds) / machine.full,
        "passes": pairs * each_pass,
        "exchange": (2 * reduced + gathered) / machine.wire if machine.processes > 1 else 0.0,
        "host": host.point * m,
        "search": host.search_seconds(m),
    }


def memory(m: int, d: int, machine: Machine) -> float:
    """Return the bytes of the fullest process beside x and y: y of all and shifted, a tile, edges."""
    tile_rows = power_below((2 << 30) // (8 * m + 16 * d), 16, 1024)
    shared = 4 * m * d * (1 + 1 / machine.processes) if machine.processes > 1 else 0
    return shared + 4 * m * d + tile_rows * (8 * m + 16 * d) + planner._EDGE_BYTES * m


def h100(processes: int) -> Machine:
    """Return GPUs of a node, by their data sheet: passes read or write each product so many times."""
    a_value = 4 / (H100_MEMORY * REACHED)
    return Machine(
        f"{processes} H100", processes, H100_FULL * REACHED,
        softmin=4 * a_value, best=a_value, listed=2 * a_value, wire=H100_WIRE * REACHED,
    )  # fmt: skip


def measured_machine(m: int, d: int) -> Machine:
    """Time products and passes on one tile, one thread."""
    x, y = (torch.from_numpy(points) for points in make("half scrambled", m, d))
    rows, tile = 512, torch.empty(512, m)
    x, b = x[:rows] / x.norm(dim=1).max(), torch.zeros(m)
    zero, a, none = torch.zeros(rows), torch.empty(rows), torch.zeros(m)
    mass, best = torch.zeros(m, dtype=torch.int64), torch.full((m,), passes.LOWEST)
    cpu = torch.device("cpu")

    def multiply() -> None:
        with products.full_float32(cpu):
            torch.mm(x, y.T, out=tile)

    near = passes.Listing(b, none, keep=potentials.ROW_NEIGHBOURS, limit=64)
    work = {
        "full": multiply,
        "softmin": lambda: passes.softmin_pass(tile, b, zero, 0.01, a, mass, best),
        "best": lambda: passes.column_best_pass(tile, zero, best),
        "listed": lambda: passes.list_pass(tile, near, zero, zero, 64 * rows),
    }
    pair = {name: _seconds(run) / (rows * m) for name, run in work.items()}
    return Machine(
        f"one thread, {d} features", 1, 2 * d / pair["full"],
        pair["softmin"], pair["best"], pair["listed"], wire=2e9,
    )  # fmt: skip


def _seconds(run: Callable[[], Any], rounds: int = 5) -> float:
    run()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return statistics.median(times)


def measured_problems(sizes: list[int], d: int, machine: Machine) -> tuple[Host, list[dict[str, Any]]]:
    """Solve problems in CPU seconds; return what is left beside their passes, and the rows of the table."""
    rows, points, searches = [], [], []
    for m in sizes:
        x, y = (torch.from_numpy(of) for of in make("half scrambled", m, d))
        result, seconds, search, peak = _solved(x, y)
        assert result.certified
        rounds = result.record["rounds"]
        rows.append(
            {
                "m": m,
                "d": d,
                "measured s": seconds,
                "measured GiB": (peak or math.nan) / GIB,
                "rounds": rounds,
            }
        )
        searches.append(search)
        known = terms(m, d, machine, Host(0.0, (0.0, 1.0)), rounds)
        points.append(max(seconds - search - sum(known.values()), 0.0) / m)
    power, factor = np.polyfit(np.log(sizes), np.log(searches), 1)
    return Host(statistics.median(points), (math.exp(factor), float(power))), rows


def _solved(x: torch.Tensor, y: torch.Tensor) -> tuple[OTSResult, float, float, int | None]:
    """Return the answer, CPU seconds of it all and of its searches, and the bytes it took."""
    results: list[OTSResult] = []
    with _searching() as spent:
        started = time.process_time()
        peak = peak_above_now(lambda: results.append(ots(x, y, method="tiles")), "cpu")
        return results[0], time.process_time() - started, spent[0], peak


@contextlib.contextmanager
def _searching() -> Iterator[list[float]]:
    """Add up the CPU seconds of sparse searches."""
    spent, solve = [0.0], SparseGraph.solve

    def timed(*args: Any) -> Any:
        started = time.process_time()
        found = solve(*args)
        spent[0] += time.process_time() - started
        return found

    SparseGraph.solve = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        SparseGraph.solve = solve  # type: ignore[method-assign]


def predicted(m: int, d: int, machine: Machine, host: Host, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return a row of the table."""
    parts = terms(m, d, machine, host, rounds)
    return {
        "machine": machine.name, "m": m, "d": d, "seconds": sum(parts.values()),
        "without search s": sum(parts.values()) - parts["search"],
        **{f"{name} s": seconds for name, seconds in parts.items()},
        "memory GiB": memory(m, d, machine) / GIB,
    }  # fmt: skip


def main() -> None:
    """Measure, fit, predict, and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 40_000, 60_000])
    parser.add_argument("--features", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    thread = measured_machine(max(args.sizes), args.features)
    host, rows = measured_problems(args.sizes, args.features, thread)
    for row in rows:
        row |= predicted(row["m"], row["d"], thread, host, row["rounds"])
        row["model / measured"] = row["seconds"] / row["measured s"]
    report("scale_measured", "cpu", rows)
    wide = measured_machine(*WIDE)  # products of more features run nearer to the peak
    cores, rows = os.cpu_count() or 1, []
    for m, d in SIZES:
        own = thread if d < WIDE[1] // 2 else replace(thread, full=wide.full)
        for machine in (replace(own, name=f"{cores} cores", processes=cores), h100(1), h100(8)):
            rows.append(predicted(m, d, machine, host))
    report("scale_model", "cpu", rows)
    report("scale_parts", "cpu", [_rates(machine, host) for machine in (thread, wide, h100(1))])


def _rates(machine: Machine, host: Host) -> dict[str, Any]:
    """Return a row of the table of parts."""
    return {
        "process": machine.name, "products, GFLOP/s": machine.full / 1e9,
        "soft minimum, ns a pair": machine.softmin * 1e9,
        "column maxima, ns a pair": machine.best * 1e9, "listing, ns a pair": machine.listed * 1e9,
        "host, us a point": host.point * 1e6, "search, power of m": host.search[1],
    }  # fmt: skip


if __name__ == "__main__":
    main()
