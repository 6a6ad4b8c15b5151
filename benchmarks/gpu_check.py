# SPDX-License-Identifier: MIT
"""What a machine with an NVIDIA GPU is asked for: the GPU tests, then the GPU benchmarks, two tables last.

make gpu-check                           build, then all of it, within 20 minutes
make gpu-check ARGS="--part 1"           build, the tests, the benchmarks that have targets: 10 minutes
make gpu-check ARGS="--part 2"           build, the other benchmarks: 10 minutes
make gpu-check ARGS="--only bench_ots"   build, some steps: 10 minutes
python benchmarks/gpu_check.py ...       the same without building

The benchmarks save after every case and this program after every step, into $OUT or benchmarks/results.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import prediction

ROOT = Path(__file__).parent.parent
BENCHMARKS = {
    path.stem: path
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py"))
    if "--device" in path.read_text()
}
TESTS = "tests"
PARTS = {1: [TESTS, "bench_lss", "bench_line_deviation", "bench_track_distance", "bench_ots"]}
PARTS[2] = [name for name in BENCHMARKS if name not in PARTS[1]]
PART_SECONDS = 560  # with the last step's grace, ten minutes
KEPT_SECONDS = 60  # of the time left, for each step that is still to come
GRACE_SECONDS = 20
STOPPED, NO_TIME = 124, 125
NEEDED = ["torch", "numpy", "scipy", "tqdm"]
NEEDED_BY_TESTS = ["pytest", "hypothesis", "matplotlib"]


def run(words: list[str], seconds: float, grace: float = GRACE_SECONDS) -> tuple[float, int]:
    """Run a command, its output on ours; return seconds and exit code, 124 where its time ran out."""
    start = time.perf_counter()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it otherwise
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"stopped after {seconds:.0f} s: {' '.join(words)}", file=sys.stderr)
        process.send_signal(signal.SIGINT)  # on which pytest still writes its summary and its XML
        code = STOPPED
    finally:  # after Ctrl-C too, which reaches the command from the terminal
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return time.perf_counter() - start, code


def command_of(step: str, out: Path, quick: bool) -> list[str]:
    """Return what runs a step."""
    if step == TESTS:
        pytest = [sys.executable, "-u", "-m", "pytest", "-q", "-m", "gpu", "--continue-on-collection-errors"]
        return [*pytest, "--tb=short", "--maxfail=100", "--durations=5", f"--junitxml={out}/gpu-tests.xml"]
    return [sys.executable, "-u", str(BENCHMARKS[step]), "--device", "cuda", *(["--quick"] if quick else [])]


def missing(names: list[str]) -> str:
    """Return which of these packages are not installed."""
    return ", ".join(name for name in names if importlib.util.find_spec(name) is None)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, small ots, no torch.compile")
    some = parser.add_mutually_exclusive_group()
    parts = "; ".join(f"{part}: {', '.join(names)}" for part, names in PARTS.items())
    some.add_argument("--part", type=int, choices=PARTS, help=parts)
    names = PARTS[1] + PARTS[2]
    some.add_argument("--only", nargs="+", choices=names, metavar="STEP", help="these steps, in this order")
    parser.add_argument("--seconds", type=float, help=f"for all of it; {PART_SECONDS} for each part if unset")
    parser.add_argument("--since", type=float, help="when building began (date +%%s): that time counts, too")
    args = parser.parse_args()
    args.steps = args.only or (PARTS[args.part] if args.part else names)
    args.seconds = args.seconds or PART_SECONDS * (1 if args.only or args.part else len(PARTS))
    return args


def print_predictions(results: Path, capability: tuple[int, int]) -> None:
    """Print what the kernels' machine code predicts beside what was measured."""
    arch = "sm_{}{}".format(*capability)
    found = list(prediction.compared(results, arch))
    if found:
        print(f"\nshares of a copy's bandwidth, {arch}", prediction.HEAD, sep="\n")
        print(*(each.line() for each in found), sep="\n")
    else:
        print(f"\nNothing to compare with predictions: none for {arch}, or no benchmark that has one ran.")


def main() -> int:
    """Run all, save a summary after each step, print the table, fail if a step failed or had no time."""
    args = arguments()
    if lacking := missing(NEEDED):
        print(f"gpu-check needs packages that are not installed: {lacking}.", file=sys.stderr)
        return 2
    if TESTS in args.steps and (lacking := missing(NEEDED_BY_TESTS)):
        print(f"Not installed: {lacking}. Test files that need it fail, the others run.", file=sys.stderr)
    import torch
    from measure import RESULTS, machine

    if not torch.cuda.is_available():
        print("gpu-check needs an NVIDIA GPU that torch can see; none is visible here.", file=sys.stderr)
        return 2
    RESULTS.mkdir(parents=True, exist_ok=True)
    summary = RESULTS / (f"gpu-check-{args.part}.json" if args.part else "gpu-check.json")
    now = time.time()
    end = (args.since or now) + args.seconds
    done: list[dict[str, Any]] = []
    if args.since:
        done.append({"step": "build", "seconds": round(now - args.since, 1), "exit code": 0})
    for later, name in zip(reversed(range(len(args.steps))), args.steps, strict=True):
        left = end - time.time()
        limit = max(left - KEPT_SECONDS * later, left / (later + 1))
        words = command_of(name, RESULTS, args.quick)
        seconds, code = run(words, limit) if limit > 5 else (0.0, NO_TIME)
        done.append({"step": name, "seconds": round(seconds, 1), "exit code": code})
        summary.write_text(json.dumps({"machine": machine("cuda"), "steps": done}, indent=1) + "\n")
    print(f"\nstep                     seconds  exit code ({STOPPED}: stopped, {NO_TIME}: no time was left)")
    for step in done:
        print(f"{step['step']:<24} {step['seconds']:>7}  {step['exit code']:>9}")
    print(f"saved {summary}")
    print_predictions(RESULTS, torch.cuda.get_device_capability())
    return int(any(step["exit code"] for step in done))


if __name__ == "__main__":
    sys.exit(main())
