# SPDX-License-Identifier: MIT
"""`make gpu-check`: a step whose time runs out still says what it found, and no benchmark is left out."""

import importlib
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
