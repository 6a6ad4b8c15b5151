# SPDX-License-Identifier: MIT
"""Time `ots` against dense and entropic solvers, checking the answers first.

python benchmarks/bench_ots.py [--quick | --large] [--only NAME] [--json FILE]

Every time includes the cost matrix. Ratios hold within one run. Peak memory is what a call adds to the
process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from geodesic_fast import ots

CLASSES = 10
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
    *[
        (family, 5000, d, "lapjvs")
        for d in (2, 3)
        for family in ("residual", "half scrambled", "random relu", "planted cycles", "clustered")
    ],
]
LARGE = [
    ("half scrambled", 16_000, 512, "lapjvs"),
    ("random relu", 16_000, 512, "lapjvs"),
    ("half scrambled", 50_000, 256, ""),
]
LARGE_TILES = 40_000  # points from which on the tiled method is asked for
PLANTED = 0.4  # share of points on the planted cycle


def make(family: str, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, (m, d) float32."""
    rng = np.random.default_rng(seed)
    if family == "blurred patches":
        return blurred_patches(rng, m)
    x = rng.standard_normal((m, d), dtype=np.float32)
    offset = 3 * rng.standard_normal((CLASSES, d), dtype=np.float32)[rng.integers(0, CLASSES, m)]
    noise = rng.standard_normal((m, d), dtype=np.float32)
    if family == "residual":
        return x, x + 0.3 * offset + 0.3 * noise
    if family == "half scrambled":
        return x, 0.3 * x + offset + noise
    if family == "random relu":
        return x, np.maximum(x @ (rng.standard_normal((d, d), dtype=np.float32) / np.float32(d**0.5)), 0)
    if family == "planted cycles":  # a cycle of points, each sent close to the next one
        target = np.arange(m)
        moved = round(PLANTED * m)
        target[:moved] = np.roll(target[:moved], 1)
        return x, x[target] + np.float32(1e-3 / m) * noise
    assert family == "clustered"
    return 0.1 * x + offset, offset[rng.permutation(m)] + 0.1 * noise


def blurred_patches(rng: np.random.Generator, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut 32 x 32 colour patches from photographs; y is their circular Gaussian blur, so OTS is 1."""
    from sklearn.datasets import load_sample_images

    photographs = [image.astype(np.float32) / 255 for image in load_sample_images().images]
    x = np.empty((m, 32, 32, 3), np.float32)
    for i in range(m):
        photograph = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(0, size - 31) for size in photograph.shape[:2])
        x[i] = photograph[top : top + 32, left : left + 32]
    frequency = np.fft.fftfreq(32)
    response = np.exp(-2 * (np.pi * 1.5) ** 2 * frequency**2)  # a standard deviation of 1.5 pixels
    filters = (response[:, None] * response[None, :])[None, :, :, None]
    y = np.fft.ifft2(np.fft.fft2(x, axes=(1, 2)) * filters, axes=(1, 2)).real
    return x.reshape(m, -1), y.reshape(m, -1).astype(np.float32)


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


def by_pot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import ot

    uniform = np.full(len(x), 1 / len(x))
    plan = ot.emd(uniform, uniform, float64_cost(x, y), numItermax=100_000_000)
    return plan.argmax(1)


RIVALS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "scipy": by_scipy,
    "lapjvs": by_lapjvs,
    "pot": by_pot,
}


def timed(call: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - started)
    return answer, statistics.median(seconds)


def peak_above_now(call: Callable[[], Any]) -> int | None:
    """Return by how many bytes the resident set grew during `call`; None where that cannot be read."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # memory kept from earlier calls would hide what this one takes
        clear.write_text("5", encoding="ascii")
        before = _kilobytes(status, "VmHWM")
        call()
        return (_kilobytes(status, "VmHWM") - before) * 1024
    except OSError:
        return None


def _kilobytes(status: Path, name: str) -> int:
    return int(status.read_text(encoding="ascii").split(name + ":")[1].split()[0])


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


def run(family: str, m: int, d: int, rivals: str) -> dict[str, Any]:
    x, y = make(family, m, d)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    large = m >= LARGE_TILES
    repeats = 1 if large else 3
    method = "tiles" if large else "auto"
    ots(a[:300], b[:300], method="stored")  # threads and caches
    results: list[Any] = []
    peak = peak_above_now(lambda: results.append(ots(a, b, method=method, verbose=large)))
    check(family, x, y, results[0])
    row: dict[str, Any] = {"family": family, "m": m, "d": d, "ots": results[0].score, "peak_bytes": peak}
    if not large:
        row["float32_cost_seconds"] = timed(lambda: a @ b.T, repeats)[1]
        result, row["seconds"] = timed(lambda: ots(a, b, method=method), repeats)
        row["cost_matrices"] = None if peak is None else peak / (4 * m * m)
    else:
        result, row["seconds"] = results[0], results[0].record["seconds"]["total"]
    row["record"], row["relative_gap"] = result.record, result.relative_gap
    for name in rivals.split():
        permutation, row[f"{name}_seconds"] = timed(lambda name=name: RIVALS[name](x, y), 1)
        row[f"{name}_difference"] = objective(x, y, permutation) / result.optimal_cost - 1
    return row


def show(row: dict[str, Any]) -> None:
    text = f"{row['family']:16s} {row['m']:6d} {row['d']:5d}  OTS {row['ots']:.4f}  {row['seconds']:8.3f} s"
    if "float32_cost_seconds" in row:
        text += f"  {row['seconds'] / row['float32_cost_seconds']:6.2f} x float32 cost"
    if row["peak_bytes"] is not None:
        text += f"  {row['peak_bytes'] / 2**20:7.0f} MiB"
    for name in RIVALS:
        if f"{name}_seconds" in row:
            faster, off = row[f"{name}_seconds"] / row["seconds"], row[f"{name}_difference"]
            text += f"  {name} {row[f'{name}_seconds']:.2f} s ({faster:.1f} x, objective {off:+.1e})"
    print(text, flush=True)


def machine() -> dict[str, Any]:
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return {
        "commit": commit.stdout.strip(), "processor": model, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small problems, under a minute")
    size.add_argument("--large", action="store_true", help="m = 16,000 and 50,000")
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    problems = QUICK if options.quick else LARGE if options.large else STANDARD
    about = machine()
    print(json.dumps(about))
    rows = []
    for problem in problems:
        if options.only in problem[0]:
            rows.append(run(*problem))
            show(rows[-1])
    report = json.dumps({"machine": about, "rows": rows})
    print(report)
    if options.json:
        options.json.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
