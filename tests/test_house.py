# SPDX-License-Identifier: MIT
"""The rules of the house that a machine can check, and the examples in the docstrings."""

import doctest
import importlib
import pkgutil
import re
import subprocess
from pathlib import Path

import pytest

import geodesic_fast

ROOT = Path(__file__).parent.parent
CODE = {".py", ".cpp", ".cu", ".cuh", ".h", ".cmake"}
TRACKED = subprocess.run(
    "git ls-files", shell=True, cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split()
SOURCES = [ROOT / name for name in TRACKED if Path(name).suffix in CODE and (ROOT / name).is_file()]


def modules():
    yield geodesic_fast
    for found in pkgutil.walk_packages(geodesic_fast.__path__, "geodesic_fast."):
        if not found.name.endswith(("__main__", "_C")):
            yield found.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_its_licence_and_is_finished(path):
    text = path.read_text()
    assert "SPDX-License-Identifier: MIT" in text.splitlines()[0]
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text) or path == Path(__file__)


def test_results_that_are_generic_are_named_tuples_of_the_oldest_python_too():
    """That of typing takes no other base in Python 3.10."""
    for path in (ROOT / "geodesic_fast").rglob("*.py"):
        text = path.read_text()
        if path.name != "_arrays.py" and re.search(r"class \w+\(NamedTuple, ", text):
            assert not re.search(r"from typing import .*\bNamedTuple\b", text), path


METRICS = [
    name
    for name, value in vars(geodesic_fast).items()
    if getattr(value, "__module__", "").startswith("geodesic_fast.metrics") and name.islower()
]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_keeps_its_contract(name):
    text = getattr(geodesic_fast, name).__doc__
    parts = ["Args:", "Returns:", "Raises:", "ifferentiable", "Source:", "Example:"]
    places = [text.find(part) for part in parts]
    assert min(places) > 0, dict(zip(parts, places, strict=True))
    assert places == sorted(places)


@pytest.mark.parametrize("name", sorted(str(getattr(m, "__name__", m)) for m in modules()))
def test_examples_in_docstrings_run(name):
    try:
        module = importlib.import_module(name)
    except ImportError as missing:
        pytest.skip(f"needs an optional package: {missing}")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


ROOMS = {  # those without a kernel are made of other metrics' kernels; those without a benchmark, too
    "lss": ("csrc/", "benchmarks/"),
    "lss_shuffled": (),
    "track_geometry": ("csrc/",),
    "line_deviation": ("csrc/", "benchmarks/"),
    "chord_deviation": ("csrc/", "benchmarks/"),
    "track_distance": ("csrc/", "benchmarks/"),
    "nearest_track": ("csrc/", "benchmarks/"),
    "ots": ("csrc/", "benchmarks/"),
    "soft_ots": (),
    "action": (),
    "geodesic_bound": ("benchmarks/",),
    "geodesic_gap": ("benchmarks/",),
    "step_geometry": ("csrc/", "benchmarks/"),
    "neural_collapse": (),
    "wasserstein_curve": ("benchmarks/",),
    "displacement_interpolation": (),
    "ots_curve": (),
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_definition(name):
    definition = getattr(geodesic_fast.reference, name)
    assert definition.__doc__.startswith("Define")
    assert definition.__module__ == getattr(geodesic_fast, name).__module__
    assert set(METRICS) == set(geodesic_fast.reference.__all__)


def test_every_metric_has_a_room():
    functions = {name.removesuffix("_summary") for name in METRICS}
    assert functions == set(ROOMS)


@pytest.mark.parametrize("metric", list(ROOMS))
def test_a_room_is_complete(metric):
    assert f"geodesic_fast/metrics/{metric}.py" in TRACKED
    assert f"tests/test_{metric}.py" in TRACKED
    for place in ROOMS[metric]:
        stems = [Path(name).name for name in TRACKED if name.startswith(place)]
        assert any(re.match(rf"(\w+_)?{metric}[_.]", stem) for stem in stems), place
    assert "benchmarks/" not in ROOMS[metric] or f"benchmarks/bench_{metric}.py" in TRACKED
