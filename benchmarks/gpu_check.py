# SPDX-License-Identifier: MIT
"""What a machine with an NVIDIA GPU is asked for: the GPU tests, then the GPU benchmarks, one table last.

make gpu-check                          (builds first)
make gpu-check ARGS="--quick --only bench_ots bench_nearest_track"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import machine

ROOT = Path(__file__).parent.parent
BENCHMARKS = {
    path.stem: path
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py"))
    if "--device" in path.read_text()
}
TESTS = "tests"
FIRST = [TESTS, "bench_lss", "bench_line_deviation", "bench_track_distance", "bench_ots"]  # have GPU targets
STEP_SECONDS, ALL_SECONDS = 150, 480  # with the build, all of it ends within ten minutes


def run(words: list[str], seconds: float) -> tuple[float, int]:
    """Run a command, its output on ours; return seconds and exit code, 124 where its time ran out."""
    start = time.perf_counter()
    try:
        code = subprocess.run(words, cwd=ROOT, check=False, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        print(f"stopped after {seconds:.0f} s: {' '.join(words)}", file=sys.stderr)
        code = 124
    return time.perf_counter() - start, code


def command_of(step: str, out: Path, quick: bool) -> list[str]:
    """Return what runs a step."""
    if step == TESTS:
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--continue-on-collection-errors"]
        return [*pytest, "--durations=5", f"--junitxml={out}/gpu-tests.xml"]
    return [sys.executable, str(BENCHMARKS[step]), "--device", "cuda", *(["--quick"] if quick else [])]


def main() -> int:
    """Run all, save the JSON, print the table, and fail if anything failed or was left out for time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="benchmarks with few rounds and no torch.compile"
    )
    names = [*FIRST, *(name for name in BENCHMARKS if name not in FIRST)]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="STEP", default=names, help=f"some of {', '.join(names)}"
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check needs an NVIDIA GPU that torch can see; none is visible here.", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT", ROOT / "benchmarks" / "results"))
    out.mkdir(parents=True, exist_ok=True)
    steps: list[dict[str, Any]] = []
    end = time.perf_counter() + ALL_SECONDS
    for name in args.only:
        left = end - time.perf_counter()
        seconds, code = (
            run(command_of(name, out, args.quick), min(STEP_SECONDS, left)) if left > 5 else (0.0, 125)
        )
        steps.append({"step": name, "seconds": round(seconds, 1), "exit code": code})
    results = {
        path.stem: json.loads(path.read_text())
        for path in sorted((ROOT / "benchmarks/results").glob("*-cuda.json"))
    }
    (out / "gpu-check.json").write_text(
        json.dumps({"machine": machine("cuda"), "steps": steps, "results": results}, indent=1)
    )
    print("\nstep                     seconds  exit code (124: stopped, 125: no time left, use --only)")
    for step in steps:
        print(f"{step['step']:<24} {step['seconds']:>7}  {step['exit code']:>9}")
    print(f"saved {out}/gpu-check.json")
    return int(any(step["exit code"] for step in steps))


if __name__ == "__main__":
    sys.exit(main())
