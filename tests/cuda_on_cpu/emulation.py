# SPDX-License-Identifier: MIT
"""Builds the CUDA kernels for the CPU, runs tests on them, and tells which of them ran."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from in_background import quietly
from translate import kernel_names

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KERNEL_SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu*"))
# Tests that know no device but call kernels; the others there are of what a CPU holds and of its bits.
NO_DEVICE = [
    "tests/test_track_accumulator.py",
    "-k",
    "stored_track or accuracy_rule or known_answers or to_and_fro or long_tracks or layouts_and_dtypes",
]


def why_not() -> str:
    """Return why this machine cannot emulate a GPU, "" if it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the emulated GPU switches between threads in x86-64 assembly for Linux"
    missing = [tool for tool in ("g++", "cmake", "ninja") if _tool(tool) is None]
    return f"the emulated GPU is built with {', '.join(missing)}, not found" if missing else ""


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def build(watch: str = "", targets: Iterable[str] = ("_C", "planted_bugs")) -> Path:
    """Build `targets`, their kernels watched by no, the address or the thread sanitizer; return where."""
    import pybind11

    target, cmake = ROOT / "build" / "cuda_on_cpu" / (watch or "plain"), _tool("cmake")
    configure = [
        cmake, "-G", "Ninja", "-S", HERE, "-B", target, f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=None", f"-DCUDA_ON_CPU_WATCH={watch}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]  # fmt: skip
    for command in (configure, [cmake, "--build", target, "--target", *targets]):
        ran = subprocess.run(
            quietly(command), env=os.environ | {"CXX": "g++"}, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise RuntimeError(
                f"{' '.join(map(str, command))} failed:\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
            )
    return target


@dataclass
class Run:
    """What a command on the emulated GPU came to."""

    code: int
    text: str


def settings(counts: Path | None = None, **names: str | int) -> dict[str, str]:
    """Return what an emulated GPU reads of its environment; launches are counted in a file."""
    chosen = {f"CUDA_ON_CPU_{name}": str(value) for name, value in names.items()}
    if counts is not None:
        chosen["CUDA_ON_CPU_COUNTS"] = str(counts)
    return chosen


def run_tests(engine: Path, arguments: Iterable[str], chosen: Mapping[str, str]) -> Run:
    """Run pytest with the emulated GPU in the place of a real one."""
    plugins = ["-p", "emulated_gpu", "-p", "share_of_tests", "-p", "no:cacheprovider"]
    return _run_python(engine, ["-m", "pytest", "-q", *plugins, "--timeout=1200", *arguments], chosen)


def run_fuzzer(engine: Path, arguments: Iterable[str], chosen: Mapping[str, str]) -> Run:
    """Run random tracks through the metrics and their gradients on the emulated GPU."""
    checks = "(*fuzz_metrics.CHECKS, *fuzz_gradients.CHECKS)"
    start = f"import sys, emulated_gpu, fuzz_gradients, fuzz_metrics; sys.exit(fuzz_metrics.main({checks}))"
    return _run_python(engine, ["-c", start, *arguments], chosen)


def _run_python(engine: Path, arguments: Iterable[str], chosen: Mapping[str, str]) -> Run:
    environment = os.environ | {
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}",
        "CUDA_ON_CPU_ENGINE": str(engine),
        "OMP_NUM_THREADS": "1",
        **chosen,
    }
    return run_program(quietly([sys.executable, *arguments]), environment)


def run_program(command: Iterable[str | Path], environment: Mapping[str, str]) -> Run:
    """Run a command, both its streams as one text."""
    ran = subprocess.run(
        list(command), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    return Run(ran.returncode, ran.stdout)


@dataclass
class Kernel:
    """One instantiation of a kernel in a library, and what its launches asked for."""

    name: str
    launches: int = 0
    blocks: int = 0
    most_dynamic_shared: int = 0  # bytes
    static_shared: int = 0


def kernels_of(library: Path) -> dict[int, Kernel]:
    """Return every instantiation of every kernel by its offset in the library."""
    names = set().union(*(kernel_names(source.read_text()) for source in KERNEL_SOURCES))
    is_kernel = re.compile(rf"geodesic_fast::cuda::\(anonymous namespace\)::({'|'.join(names)})(<.*>)?\(")
    found: dict[int, Kernel] = {}
    table = subprocess.run(["nm", "-C", "-S", library], capture_output=True, text=True, check=True).stdout
    static: dict[str, int] = {}
    for line in table.splitlines():
        match = re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) ([tTbBdD]) (?:void )?(.*)", line)
        if match is None or not is_kernel.match(match[4]) or "[clone" in match[4]:
            continue
        name = _before_arguments(match[4])
        if match[3] in "tT":
            found[int(match[1], 16)] = Kernel(name)
        else:  # one of its shared variables
            static[name] = static.get(name, 0) + int(match[2], 16)
    for kernel in found.values():
        kernel.static_shared = static.get(kernel.name, 0)
    return found


def _before_arguments(signature: str) -> str:
    """Return `name<arguments>` of a demangled function."""
    text = signature.removeprefix("geodesic_fast::cuda::(anonymous namespace)::")
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return text[:place]
    return text


def count_launches(library: Path, counts: Path) -> list[Kernel]:
    """Return every kernel of the library with what was counted in `counts`, a file of many processes."""
    found = kernels_of(library)
    lines = counts.read_text().splitlines() if counts.exists() else []
    for line in lines:
        offset, launches, blocks, _, shared = line.split()
        kernel = found[int(offset, 16)]
        kernel.launches += int(launches)
        kernel.blocks += int(blocks)
        kernel.most_dynamic_shared = max(kernel.most_dynamic_shared, int(shared))
    return sorted(found.values(), key=lambda kernel: kernel.name)
