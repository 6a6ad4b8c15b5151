# SPDX-License-Identifier: MIT
"""What a machine with an NVIDIA GPU is asked for: the GPU tests, then the GPU benchmarks, one table last.

make gpu-check            (builds first)
python benchmarks/gpu_check.py [--quick]
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
BENCHMARKS = [
    path for path in sorted((ROOT / "benchmarks").glob("bench_*.py")) if "--device" in path.read_text()
]


SECONDS = 140  # for each step: with the build, three of them end within eight minutes


def run(words: list[str]) -> tuple[float, int]:
    """Run a command, its output on ours; return seconds and exit code, 124 where its time ran out."""
    start = time.perf_counter()
    try:
        code = subprocess.run(words, cwd=ROOT, check=False, timeout=SECONDS).returncode
    except subprocess.TimeoutExpired:
        print(f"stopped after {SECONDS} s: {' '.join(words)}", file=sys.stderr)
        code = 124
    return time.perf_counter() - start, code


def main() -> int:
    """Run all, save the JSON, print the table, and fail if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="benchmarks with few rounds and no torch.compile"
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check needs an NVIDIA GPU that torch can see; none is visible here.", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT", ROOT / "benchmarks" / "results"))
    out.mkdir(parents=True, exist_ok=True)
    steps: list[dict[str, Any]] = []
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "--durations=5",
        f"--junitxml={out}/gpu-tests.xml",
    ]
    commands = {"tests marked gpu": tests}
    for path in BENCHMARKS:
        commands[path.stem] = [
            sys.executable,
            str(path),
            "--device",
            "cuda",
            *(["--quick"] if args.quick else []),
        ]
    for name, words in commands.items():
        seconds, code = run(words)
        steps.append({"step": name, "seconds": round(seconds, 1), "exit code": code})
    results = {
        path.stem: json.loads(path.read_text())
        for path in sorted((ROOT / "benchmarks/results").glob("*-cuda.json"))
    }
    (out / "gpu-check.json").write_text(
        json.dumps({"machine": machine("cuda"), "steps": steps, "results": results}, indent=1)
    )
    print("\nstep                     seconds  exit code")
    for step in steps:
        print(f"{step['step']:<24} {step['seconds']:>7}  {step['exit code']:>9}")
    print(f"saved {out}/gpu-check.json")
    return int(any(step["exit code"] for step in steps))


if __name__ == "__main__":
    sys.exit(main())
