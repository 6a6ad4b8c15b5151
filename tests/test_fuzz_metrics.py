# SPDX-License-Identifier: MIT
"""Some cases of the fuzzers, always the same, on each instruction set and with no engine; see `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geodesic_fast.engine.load import is_loaded

HERE = Path(__file__).parent
RUNS = [("fuzz_metrics.py", each, 50) for each in ("avx512", "avx2", "baseline", "none")] + [
    ("fuzz_gradients.py", each, 25) for each in ("avx512", "baseline")
]


@pytest.mark.parametrize(("fuzzer", "instructions", "cases"), RUNS)
def test_random_tracks_agree_with_extended_precision(fuzzer, instructions, cases):
    if instructions != "none" and not is_loaded:
        pytest.skip("needs the compiled engine")
    words = ["--cases", str(cases), "--seed", "7000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if instructions == "none":
        words.append("--no-engine")
    else:
        environment["GEODESIC_FAST_CPU"] = instructions
    done = subprocess.run(
        [sys.executable, str(HERE / fuzzer), *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " 0 failures" in done.stdout
