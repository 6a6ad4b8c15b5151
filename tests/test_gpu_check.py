# SPDX-License-Identifier: MIT
"""`make gpu-check`: a step whose time runs out still says what it found, and no benchmark is left out."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SLOW = """
import sys, time
try:
    open(sys.argv[1], "w").write("started")
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("interrupted")
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_check")


def step(program, *words):
    return [sys.executable, "-I", "-S", "-c", program, *words]


def test_a_step_that_ends_tells_its_exit_code(gpu_check):
    seconds, code = gpu_check.run(step("raise SystemExit(3)"), 60)
    assert code == 3
    assert seconds < 60


def test_a_step_whose_time_runs_out_is_interrupted_and_saves(gpu_check, tmp_path, capsys):
    found = tmp_path / "found"
    seconds, code = gpu_check.run(step(SLOW, str(found)), 1.5)
    assert code == gpu_check.STOPPED
    assert 1.5 <= seconds < 20
    assert found.read_text() == "interrupted"
    assert "stopped after" in capsys.readouterr().err


def test_a_step_that_does_not_listen_is_killed(gpu_check):
    seconds, code = gpu_check.run(step(STUBBORN), 0.5, grace=0.2)
    assert code == gpu_check.STOPPED
    assert seconds < 20


def test_an_interrupt_from_the_terminal_ends_both(tmp_path):
    """In a session of its own, so that the interrupt reaches the runner and its step, and nothing else."""
    found = tmp_path / "found"
    runner = f"import gpu_check; gpu_check.run({step(SLOW, str(found))!r}, 60)"
    process = subprocess.Popen(
        [sys.executable, "-c", runner], cwd=BENCHMARKS, start_new_session=True, stderr=subprocess.PIPE
    )
    while not (found.exists() and found.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert found.read_text() == "interrupted"


def test_every_benchmark_of_a_gpu_is_in_one_part(gpu_check):
    steps = sorted(gpu_check.PARTS[1] + gpu_check.PARTS[2])
    assert steps == sorted([gpu_check.TESTS, *gpu_check.BENCHMARKS])


def test_predictions_stand_beside_measurements(gpu_check, tmp_path, monkeypatch, capsys):
    kept, measured = tmp_path / "kept", tmp_path / "measured"
    kept.mkdir(), measured.mkdir()
    forward, backward = (name.format("bf16") for name in gpu_check.prediction.KERNELS["bench_lss"])
    kernels = [{"kernel": forward, "share": 0.9}, {"kernel": backward, "share": 0.6}]
    (kept / "sass_report-sm_90.json").write_text(json.dumps({"arch": "sm_90", "kernels": kernels}))
    row = {"case": "list bfloat16 81x4096x8192", "% of bandwidth": 85.0, "bwd % of floor": 50.0}
    other = row | {"case": "layer-major float32 13x32x64"}  # of which nothing is predicted
    (measured / "bench_lss-cuda.json").write_text(json.dumps({"rows": [row, other]}))
    monkeypatch.setattr(gpu_check.prediction, "PREDICTIONS", kept)
    once, both = gpu_check.prediction.compared(measured, "sm_90")
    assert (once.predicted, once.measured) == (0.9, 0.85)
    assert both.predicted == pytest.approx(3 / (1 / 0.9 + 2 / 0.6))
    assert both.measured == 0.5
    gpu_check.print_predictions(measured, (9, 0))
    assert "90%       85%" in capsys.readouterr().out
    gpu_check.print_predictions(measured, (8, 0))
    assert "none for sm_80" in capsys.readouterr().out


def test_predictions_are_of_kernels_and_benchmarks_that_exist(gpu_check):
    from_file = gpu_check.prediction.predictions("sm_90")
    for benchmark, kernels in gpu_check.prediction.KERNELS.items():
        assert benchmark in gpu_check.BENCHMARKS
        assert all(kernel.format("bf16") in from_file for kernel in kernels)
