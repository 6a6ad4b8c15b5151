# SPDX-License-Identifier: MIT
"""The CUDA kernels without a GPU: each runs on the emulated one and answers right; planted bugs are found."""

import os
import re
import threading
from functools import cache, partial

import emulation
import pytest

pytestmark = [
    pytest.mark.skipif(emulation.why_not() != "", reason=emulation.why_not() or "-"),
    pytest.mark.timeout(1800),
]
PLANTED = re.findall(r'{"(\w+)", "([a-z ]+)", \w+}', (emulation.HERE / "planted_bugs.cu").read_text())
# Every second of the shapes at the kernels' edges in a shuffled order, every seventh test of a
# GPU, and some cases of the fuzzer: `make emulate` runs all of them in several orders.
RUNS = {
    "edges in a shuffled order": ("0/2", {"ORDER": 1, "SMS": 2}),
    "tests of a GPU": ("0/7", {}),
    "gradients that no edge has": ("0/1", {}),
    "random tracks": ("0/1", {}),
}
EDGES = "tests/test_kernel_edges.py"


_one_at_a_time = threading.Lock()


@cache
def build():
    folder = emulation.build()
    (folder / "launches").unlink(missing_ok=True)
    return folder


def built():
    """Return the folder of the engine, and of the counts of its launches."""
    with _one_at_a_time:
        return build()


def run(name):
    folder = built()
    share, names = RUNS[name]
    chosen = {**emulation.settings(folder / "launches", **names), "SHARE_OF_TESTS": share}
    if name == "random tracks":
        return emulation.run_fuzzer(folder / "_C.so", ["--cases", "60", "--seed", "1"], chosen)
    arguments = ["-m", "gpu and not huge", "tests", f"--ignore={EDGES}"]
    if name.startswith("edges"):
        arguments = ["-m", "gpu", EDGES]
    if name.startswith("gradients"):
        arguments = [
            "-m",
            "gpu",
            "-k",
            "gradient",
            "tests/test_step_geometry.py",
            "tests/test_chord_deviation.py",
        ]
    return emulation.run_tests(folder / "_C.so", arguments, chosen)


IN_BACKGROUND = {} if emulation.why_not() else {"build": built} | {name: partial(run, name) for name in RUNS}


@pytest.mark.parametrize("name", list(RUNS))
def test_the_kernels_give_the_right_answers(name, background):
    ran = background[name].result()
    assert ran.code == 0, ran.text[-6000:]
    assert int(re.search(r"(\d+) (passed|cases, 0 failures)", ran.text)[1]) > 20, ran.text[-500:]


def test_every_kernel_ran(background):
    assert all(background[name].result().code == 0 for name in RUNS)
    launched = emulation.count_launches(built() / "_C.so", built() / "launches")
    assert len(launched) > 100
    assert [kernel.name for kernel in launched if kernel.launches == 0] == []


def test_every_kernel_is_known_by_name():
    for source in emulation.KERNEL_SOURCES:
        text = source.read_text()
        assert text.count("__global__") == len(emulation.kernel_names(text)), source.name


@pytest.mark.parametrize("order", ["forward", "reverse", "7"])
@pytest.mark.parametrize(("name", "found_by"), PLANTED)
def test_a_planted_bug_is_found(name, found_by, order):
    ran = emulation.run_program([built() / "planted_bugs", name], os.environ | {"CUDA_ON_CPU_ORDER": order})
    expected = bool({"values", "emulator"} & set(found_by.split()))
    assert (ran.code != 0) == expected, ran.text
