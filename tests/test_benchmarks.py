# SPDX-License-Identifier: MIT
"""`make bench`: every public function that measures has a room, whose answers are checked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import geodesic_fast

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run():
    """Each way runs once, untimed, on small problems; its room checks the answers first."""
    pytest.importorskip("pytest_benchmark", reason="needs the package pytest-benchmark")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--quick", "--benchmark-disable", "-v",
         "-p", "no:cacheprovider"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_every_answer_is_right(run):
    code, said = run
    assert code == 0, said[-4000:]


def test_every_public_function_has_a_room(run):
    rooms = set(re.findall(r"test_speed\[(\w+), ours, ", run[1]))
    functions = {
        name
        for name in geodesic_fast.__all__
        if callable(getattr(geodesic_fast, name))
        and not hasattr(getattr(geodesic_fast, name), "_fields")  # what functions return
        and not hasattr(getattr(geodesic_fast, name), "__dataclass_fields__")
    }  # fmt: skip
    assert rooms == functions
    assert len(functions) > 15


def test_each_room_has_a_rival(run):
    ways = re.findall(r"test_speed\[(\w+), ([\w, ]+?), \d+x", run[1])
    for room in {room for room, _ in ways}:
        assert len({way for name, way in ways if name == room}) > 1, room
