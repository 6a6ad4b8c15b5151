# SPDX-License-Identifier: MIT
"""Time `ots` against dense and entropic solvers, checking the answers first.

python benchmarks/bench_ots.py [--device cuda] [--quick | --large | --low | --small | --sparse] [--only NAME]

Every time includes the cost matrix. Ratios hold within one run. Peak memory is what a call adds to the
process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from measure import installed, medians, peak_above_now, report, save
from ots_problems import PLANTED, make
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

import geodesic_fast
from geodesic_fast import ots
from geodesic_fast.transport.sparse_assignment import Rows, cheapest_flow

OBJECTIVE_TOLERANCE = 1e-12  # relative
# family, m, d, rivals
QUICK = [
    ("residual", 2000, 128, "lapjvs scipy pot"),
    ("half scrambled", 2000, 128, "lapjvs scipy pot"),
    ("random relu", 2000, 128, "lapjvs scipy pot"),
    ("planted cycles", 2000, 64, "lapjvs"),
    ("clustered", 1000, 16, "lapjvs"),
    ("half scrambled", 1000, 2, "lapjvs"),
    ("blurred patches", 1000, 3072, "lapjvs"),
]
STANDARD = [
    ("half scrambled", 4000, 512, "lapjvs scipy pot"),
    ("half scrambled", 8000, 512, "lapjvs"),
    ("random relu", 8000, 512, "lapjvs"),
    ("residual", 8000, 512, "lapjvs"),
    ("blurred patches", 5000, 3072, ""),
    ("planted cycles", 8000, 512, "lapjvs"),
    ("clustered", 4000, 64, "lapjvs"),
    ("half scrambled", 2000, 4096, "lapjvs"),
]
LOW = [
    (family, 5000, d, "lapjvs")
    for d in (2, 3)
    for family in ("residual", "planted cycles", "clustered", "random relu", "half scrambled")
]
LARGE = [
    ("half scrambled", 16_000, 512, "lapjvs"),
    ("random relu", 16_000, 512, "lapjvs"),
    ("half scrambled", 50_000, 256, ""),
]
GPU = [
    ("half scrambled", 20_000, 512, ""),
    ("residual", 20_000, 512, ""),
    ("half scrambled", 100_000, 512, ""),
    ("blurred patches", 100_000, 3072, ""),
]
SMALL = [  # family, problems, m, d
    (family, *size)
    for size in ((1, 128, 512), (1, 512, 784), (256, 128, 64))
    for family in ("residual", "half scrambled", "random relu")
]
SPARSE = (20_000, 80_000, 300_000, 1_000_000)  # points
SPARSE_NEIGHBOURS = 31
SPARSE_RIVAL = 20_000  # points up to which SciPy solves it, too
SMALL_ROUNDS = 30
SMALL_RIVALS = ("lapjvs", "lapjvr", "lapjvh")
ROUNDS = 3
LONG_SECONDS = 10  # from which on a GPU's problem is timed once
LARGE_TILES = 40_000  # points from which on the tiled method is asked for


def float64_cost(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    a, b = a - a.mean(0), b - b.mean(0)
    cost = torch.addmm(b.square().sum(1)[None], a, b.T, alpha=-2).add_(a.square().sum(1)[:, None])
    return cost.clamp_(min=0).numpy()


def by_scipy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(float64_cost(x, y))[1]


def by_lapjvs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import lap

    return np.asarray(lap.lapjvs(float64_cost(x, y), return_cost=False)[1])


def by_lapjvr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import lap

    return np.asarray(lap.lapjvr(float64_cost(x, y), return_cost=False)[1])


def by_pot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import ot

    uniform = np.full(len(x), 1 / len(x))
    plan = ot.emd(uniform, uniform, float64_cost(x, y), numItermax=100_000_000)
    return plan.argmax(1)


# the package a rival needs, the rival
RIVALS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "scipy": ("scipy", by_scipy),
    "lapjvs": ("lap", by_lapjvs),
    "pot": ("ot", by_pot),
}


def objective(x: np.ndarray, y: np.ndarray, permutation: np.ndarray) -> float:
    total = 0.0
    for start in range(0, len(x), 512):
        difference = x[start : start + 512].astype(np.float64) - y[permutation[start : start + 512]]
        total += float(np.square(difference).sum())
    return total / len(x)


def check(family: str, x: np.ndarray, y: np.ndarray, result: Any) -> None:
    """Refuse to time an answer that is not proved, or not the known one."""
    assert result.certified, family
    if family == "blurred patches":
        assert result.score == 1.0, result.score
    if family == "planted cycles":
        assert result.score == 1 - round(PLANTED * len(x)) / len(x), result.score
    assert abs(objective(x, y, result.permutation.numpy()) / result.optimal_cost - 1) < OBJECTIVE_TOLERANCE


def run(family: str, m: int, d: int, rivals: str, device: str) -> dict[str, Any]:
    x, y = make(family, m, d)
    a, b = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    large = device == "cpu" and m >= LARGE_TILES
    method = "tiles" if large else "auto"
    ots(a[:300], b[:300], method="stored")  # threads and caches
    (a[:2048] @ b[:2048].T).sum()  # buffers that the matrix library keeps for the whole process, some 10 MiB
    results: list[Any] = []
    peak = peak_above_now(lambda: results.append(ots(a, b, method=method, verbose=large)), device)
    result = results[0]
    check(family, x, y, result)
    row: dict[str, Any] = {"family": family, "m": m, "d": d, "OTS": result.score}
    if large:
        row["ots s"] = result.record["seconds"]["total"]
    else:
        ours = {"ots s": lambda: ots(a, b, method=method), "float32 cost s": lambda: (a @ b.T)[0, 0].item()}
        long = device == "cuda" and result.record["seconds"]["total"] > LONG_SECONDS
        times = medians(ours, "cpu", 1 if long else ROUNDS, family, warm_ups=0 if long else 2)
        row |= times  # both end with a number on the host
        row["ots/cost"] = row["ots s"] / row["float32 cost s"]
    row["peak MiB"] = "" if peak is None else round(peak / 2**20)
    row["peak/matrix"] = "" if peak is None else peak / (4 * m * m)
    row |= {name: result.record[name] for name in ("iterations", "rounds", "edges", "augmentations")}
    row["gap"] = result.relative_gap
    for name in rivals.split():
        package, rival = RIVALS[name]
        if not installed(package, f"the rival {name} is"):
            continue
        started = time.perf_counter()
        permutation = rival(x, y)
        row[f"{name} s"] = time.perf_counter() - started
        row[f"{name}/ots"] = row[f"{name} s"] / row["ots s"]
        row[f"{name} objective"] = objective(x, y, permutation) / result.optimal_cost - 1
    return row


def run_small(family: str, problems: int, m: int, d: int) -> dict[str, Any]:
    """Take the CPU seconds of problems of few points beside the dense solvers of lapx, alone and in batches.

    On one thread: what starts more of them only divides these seconds.
    """
    import lap

    torch.set_num_threads(1)

    made = [make(family, m, d, seed) for seed in range(problems)]
    x, y = (np.stack(side) for side in zip(*made, strict=True))
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    found = ots(a, b, batch_dims=1)
    assert found.certified.all(), family
    for k, (one, other) in enumerate(made):
        best = objective(one, other, by_scipy(one, other))
        assert abs(found.optimal_cost[k].item() / best - 1) < OBJECTIVE_TOLERANCE, family

    def one_by_one(name: str) -> Callable[[], Any]:
        solve = getattr(lap, name)
        return lambda: [solve(float64_cost(*problem), return_cost=False) for problem in made]

    def batched(name: str) -> Callable[[], Any]:
        solve = getattr(lap, f"{name}_batch")
        return lambda: solve(float64_costs(a, b), return_cost=False, n_threads=1)

    ours = (lambda: ots(a, b, batch_dims=1)) if problems > 1 else (lambda: ots(a[0], b[0]))
    ways = {"ots ms": ours} | {f"{name} ms": one_by_one(name) for name in SMALL_RIVALS}
    if problems > 1:
        ways |= {f"{name} batch ms": batched(name) for name in SMALL_RIVALS}
    times = medians(ways, "cpu", SMALL_ROUNDS if problems == 1 else ROUNDS, family, clock=time.process_time)
    row: dict[str, Any] = {"family": family, "problems": problems, "m": m, "d": d}
    row["OTS"] = found.score.mean().item()
    row |= {name: 1e3 * seconds for name, seconds in times.items()}
    row["best one by one/ots"] = min(row[f"{name} ms"] for name in SMALL_RIVALS) / row["ots ms"]
    if problems > 1:
        row["best batch/ots"] = min(row[f"{name} batch ms"] for name in SMALL_RIVALS) / row["ots ms"]
    return row


def neighbours(m: int) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Return a graph like that of points in many dimensions, the row of each edge, and the costs.

    The neighbours of a row are any columns, their distances those of the nearest of many points in 64
    dimensions; a hidden perfect matching is as far as the farthest of them.
    """
    rng = np.random.default_rng(0)
    near = 3 * np.log(np.cumsum(rng.exponential(size=(m, SPARSE_NEIGHBOURS)), 1))
    cost = 600 + np.concatenate([near.max(1, keepdims=True), near], 1)
    col = np.concatenate([np.arange(m)[:, None], rng.integers(0, m, (m, SPARSE_NEIGHBOURS))], 1)
    keys, first = np.unique(np.arange(m)[:, None] * m + col, return_index=True)
    i, j = np.divmod(keys.reshape(-1), m)
    one = np.ones(m, np.int32)
    rows = Rows(np.searchsorted(i, np.arange(m + 1)), j.astype(np.int32), one, one)
    return rows, i, cost.reshape(-1)[first.reshape(-1)]


def to_the_end(slices: Iterator[None], _: Any) -> None:
    """Work without a deadline."""
    for _ in slices:
        pass


def run_sparse(m: int) -> dict[str, Any]:
    """Take the CPU seconds of the sparse solver alone, from equal prices; it works on one thread."""
    rows, i, cost = neighbours(m)
    v, units = np.full(m, 300.0), np.zeros_like(rows.col)
    started = time.process_time()
    u, done = cheapest_flow(rows, cost, v, units, to_the_end)
    row: dict[str, Any] = {"m": m, "edges": len(cost), "solve s": time.process_time() - started} | done
    assert (np.bincount(i, units) == 1).all()
    assert (np.bincount(rows.col, units) == 1).all()
    assert (cost - v[rows.col] - u[i]).min() >= 0
    best = float((cost * units).sum())
    assert abs(best / float(u.sum() + v.sum()) - 1) < OBJECTIVE_TOLERANCE  # the duals prove it
    if m <= SPARSE_RIVAL:
        graph = csr_array((cost, rows.col, rows.start.astype(np.int32)), shape=(m, m))
        started = time.process_time()
        matched = min_weight_full_bipartite_matching(graph)
        row["scipy s"] = time.process_time() - started
        assert abs(graph[matched].sum() / best - 1) < OBJECTIVE_TOLERANCE
    return row


def float64_costs(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Return the costs of all problems, (problems, m, m)."""
    a, b = x.double(), y.double()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    costs = torch.baddbmm(b.square().sum(-1)[:, None], a, b.mT, alpha=-2)
    return costs.add_(a.square().sum(-1)[:, :, None]).clamp_(min=0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small problems, under a minute")
    size.add_argument("--low", action="store_true", help="m = 5000 in 2 and 3 dimensions")
    size.add_argument("--small", action="store_true", help="problems of 128 and 512 points, and batches")
    size.add_argument(
        "--sparse", action="store_true", help="the solver of sparse graphs alone, to m = 1,000,000"
    )
    size.add_argument("--large", action="store_true", help="m = 16,000 and 50,000")
    parser.add_argument("--only", default="", help="families whose name contains this")
    args = parser.parse_args()
    problems = STANDARD if args.device == "cpu" else GPU
    if args.quick or args.low or args.large:
        problems = QUICK if args.quick else LOW if args.low else LARGE
    print(f"geodesic_fast {geodesic_fast.__version__} on {args.device}, every time with its cost matrix")
    if args.small:
        if installed("lap", "the table of small problems, which is beside lapx, is"):
            rows = [run_small(*problem) for problem in SMALL if args.only in problem[0]]
            report("bench_ots_small", "cpu", rows)
        return
    if args.sparse:
        report("bench_ots_sparse", "cpu", [run_sparse(m) for m in SPARSE])
        return
    suffix = "_quick" if args.quick else "_low" if args.low else "_large" if args.large else ""
    rows = []
    for problem in problems:
        patches = problem[0] == "blurred patches"
        if args.only in problem[0] and (not patches or installed("sklearn", "the blurred patches are")):
            rows.append(run(*problem, args.device))
            print(rows[-1], flush=True)
            save(f"bench_ots{suffix}", args.device, rows)
    report(f"bench_ots{suffix}", args.device, rows)


if __name__ == "__main__":
    main()
