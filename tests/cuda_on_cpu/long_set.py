# SPDX-License-Identifier: MIT
"""The long set: sanitizers over every entry point, four architectures' limits, few blocks, several orders.

python tests/cuda_on_cpu/long_set.py [PART ...]     parts: answers, address, thread; all without a name
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

import emulation
from test_emulated_gpu import PLANTED

ARCHITECTURES = {
    "sm_80": 166912,
    "sm_86": 101376,
    "sm_90": 232448,
    "sm_100": 232448,
}  # bytes a block may have
ORDERS = ("forward", "reverse", "1", "2")
FEW = {"BLOCKS": 3, "SMS": 2}


def settings_of_a_run() -> Iterator[dict[str, str | int]]:
    """Yield each architecture in one order and each order on one architecture, and few blocks."""
    for place, arch in enumerate(ARCHITECTURES):
        yield {"ARCH": arch, "ORDER": ORDERS[place]}
    yield {"ARCH": "sm_90", "ORDER": "reverse", **FEW}
    yield {"ARCH": "sm_86", "ORDER": "3", **FEW}


def report(name: str, run: emulation.Run, began: float) -> bool:
    """Print what a run came to, all of it if it failed; return whether it was good."""
    print(f"{'ok' if run.code == 0 else 'FAILED':7}{time.monotonic() - began:7.0f} s  {name}", flush=True)
    if run.code:
        print(run.text[-8000:], flush=True)
    return run.code == 0


def answers() -> bool:
    """Run every test of a GPU in each setting, the huge ones in one."""
    engine, good = emulation.build(targets=("_C",)) / "_C.so", True
    for place, chosen in enumerate(settings_of_a_run()):
        for arguments in (
            ["-m", "gpu" if place == 0 else "gpu and not huge", "--timeout=3600", "tests"],
            emulation.NO_DEVICE,
        ):
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                counts = Path(folder) / "counts"
                run = emulation.run_tests(engine, arguments, emulation.settings(counts, **chosen))
                good &= report(f"answers {chosen} {arguments[0]} {arguments[1]}", run, began)
                good &= fits(engine, counts, ARCHITECTURES[str(chosen["ARCH"])])
        began = time.monotonic()
        arguments = ["--cases", "300", "--seed", str(1000 * place)]
        run = emulation.run_fuzzer(engine, arguments, emulation.settings(**chosen))
        good &= report(f"random tracks {chosen}", run, began)
    return good


def fits(library: Path, counts: Path, limit: int) -> bool:
    """Print the kernels whose launches asked for more shared memory than the architecture has."""
    kernels = emulation.count_launches(library, counts)
    too_much = [
        kernel
        for kernel in kernels
        if kernel.launches and kernel.static_shared + kernel.most_dynamic_shared > limit
    ]
    for kernel in too_much:
        asked = f"{kernel.static_shared} + {kernel.most_dynamic_shared}"
        print(f"FAILED  {kernel.name} asks for {asked} bytes of shared memory, a block has {limit}")
    return not too_much


def watched(watch: str) -> bool:
    """Run every entry point under a sanitizer, and the planted bugs that it must find."""
    built = emulation.build(watch, ("entry_points", "planted_bugs"))
    good = planted(built, watch)
    for chosen in settings_of_a_run():
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            counts = Path(folder) / "counts"
            run = watched_program([built / "entry_points"], emulation.settings(counts, **chosen))
            good &= report(f"{watch} {chosen}", run, began)
            kernels = emulation.count_launches(built / "entry_points", counts)
        never = [kernel.name for kernel in kernels if kernel.launches == 0]
        if never and chosen["ARCH"] == "sm_90" and "BLOCKS" not in chosen:
            print(f"FAILED  entry_points.cpp never runs {', '.join(never)}")
            good = False
    return good


def watched_program(command: list[str | Path], chosen: dict[str, str]) -> emulation.Run:
    """Run a program whose sanitizer cannot work with addresses drawn by chance."""
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=0"} | chosen
    return emulation.run_program(["setarch", "-R", *command], environment)


def planted(built: Path, watch: str) -> bool:
    """Run the planted bugs; a sanitizer finds its own, and what values and the emulated device tell."""
    wrong = []
    for name, found_by in PLANTED:
        finders = set(found_by.split())
        if watch == "address" and "values" in finders and name != "no_wait":
            continue  # in this build shared variables hold no NaN at first
        expected = bool(finders & {"values", "emulator", watch})
        run = watched_program([built / "planted_bugs", name], {})
        if (run.code != 0) != expected:
            wrong.append(name)
    print(f"{'FAILED' if wrong else 'ok':7} planted bugs under {watch} {' '.join(wrong)}", flush=True)
    return not wrong


def main() -> int:
    """Run the parts that are named."""
    parts = {"answers": answers, "address": lambda: watched("address"), "thread": lambda: watched("thread")}
    chosen = sys.argv[1:] or list(parts)
    good = [parts[name]() for name in chosen]
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
    return not all(good)


if __name__ == "__main__":
    sys.exit(main())
