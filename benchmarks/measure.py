# SPDX-License-Identifier: MIT
"""How benchmarks here measure: answers checked first, candidates in turn, medians, ratios of one run."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import geodesic_fast
from geodesic_fast.engine.load import engine, is_loaded

RESULTS = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
FLUSH_BYTES = 256 << 20  # larger than a GPU's second-level cache


def medians(
    candidates: dict[str, Callable[[], Any]],
    device: str,
    rounds: int,
    title: str = "",
    warm_ups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each candidate; each round runs all of them in turn."""
    time_once = _time_on_gpu if device == "cuda" else functools.partial(_time_on_cpu, clock)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():  # warm up: caches, compilation, allocator
        for _ in range(warm_ups):
            time_once(run)
    for _ in tqdm(range(rounds), desc=title, leave=False):
        for name, run in candidates.items():
            times[name].append(time_once(run))
    return {name: statistics.median(values) for name, values in times.items()}


def _time_on_cpu(clock: Callable[[], float], run: Callable[[], Any]) -> float:
    start = clock()
    run()
    return clock() - start


def _time_on_gpu(run: Callable[[], Any]) -> float:
    torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda").zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def peak_above_now(call: Callable[[], Any], device: str) -> int | None:
    """Return by how many bytes the memory in use grew during `call`; None where that cannot be read."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
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


def machine(device: str) -> dict[str, Any]:
    """Return what a result must name: machine, versions, commit."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # no git
            return ""

    but_results = ("--", ":/", ":(top,exclude)benchmarks/results")
    dirty = "+changes" if git("status", "--porcelain", "--untracked-files=no", *but_results) else ""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "instruction_set": engine.instruction_set if is_loaded else "none",
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + dirty,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names) or '?'} cores, {platform.machine()}"


@functools.cache
def installed(package: str, what: str) -> bool:
    """Say whether a package is there; where it is not, print once what is left out."""
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"{package} is not installed: {what} left out.")
    return found


def save(name: str, device: str, rows: list[dict[str, Any]]) -> Path:
    """Save the rows with the machine and commit; after each row, so that an end half-way loses nothing."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}-{device}.json"
    path.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=1) + "\n")
    return path


def report(name: str, device: str, rows: list[dict[str, Any]]) -> None:
    """Save the rows and print them as a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(c), *(len(row[i]) for row in cells)) for i, c in enumerate(columns)]
    for row in [columns, *cells]:
        print(
            "  ".join(
                text.ljust(w) if i == 0 else text.rjust(w)
                for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
        )
    print(f"saved {save(name, device, rows)}")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_cases(
    name: str,
    description: str | None,
    cases: dict[str, Sequence[Any]],
    bench: Callable[[Any, str, bool], dict[str, Any]],
) -> None:
    """Read the command line, bench(case, device, quick) the cases of the device, print and save the table.

    Slow cases, under the key "cuda, slow", come last and not in a quick run.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--cases", type=int, default=None, help="only the first so many cases")
    args = parser.parse_args()
    print(f"geodesic_fast {geodesic_fast.__version__} on {args.device}, {name}")
    rows = []
    slow = [] if args.quick else cases.get(f"{args.device}, slow", [])
    for case in [*cases[args.device], *slow][: args.cases]:
        rows.append(bench(case, args.device, args.quick))
        save(name, args.device, rows)
    report(name, args.device, rows)
