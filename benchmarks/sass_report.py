# SPDX-License-Identifier: MIT
"""Predicts how near its memory's bandwidth each CUDA kernel comes, from its machine code: no GPU is needed.

    python benchmarks/sass_report.py [FILE] [--arch sm_90] [--kernel PATTERN] [--check]

FILE is a cubin, an object or an extension with CUDA kernels, by default the installed engine. Of each
kernel's inner loop over memory the instructions on the way that moves the most bytes are counted; loops
inside it count once. Two things may hold it: instructions a byte against what the schedulers issue, and bytes
in flight against latency times bandwidth (Little's law). All shares are predictions, for d = 4096. `--check`
only looks for spills, stack frames and too much static shared memory.

What it does not know: how often a kernel reads its input, how often loops inside run, and bounds other than
memory's. Of kernels with several loops over memory it shows one, and not always the one that counts.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WARP = 32
MOST_STATIC_SHARED = 48 << 10
RESERVED_SHARED = 1 << 10  # of each block, by the system


@dataclass(frozen=True)
class Architecture:
    """What bounds a kernel there; bandwidths are what a copy reaches."""

    processors: int
    clock: float  # Hz
    bandwidth: float  # bytes/s
    registers: int  # of a processor
    shared: int  # bytes of a processor
    warps: int
    latency: float = 8e-7  # seconds, under load
    issue: float = 0.8  # of the schedulers' slots that dependent instructions leave usable


ARCHITECTURES = {
    "sm_80": Architecture(108, 1.41e9, 1.75e12, 65536, 164 << 10, 64),
    "sm_90": Architecture(132, 1.755e9, 3.0e12, 65536, 228 << 10, 64),
    "sm_100": Architecture(148, 1.85e9, 7.0e12, 65536, 228 << 10, 64),
}

# Threads of a block and its dynamic shared memory, at d = 4096 features; else the most threads and none.
LAUNCHES = (
    (r"lss\w+forward_kernel<(bf16|fp16), true", 256, 256 * 16 * 2 * 4),
    (r"lss\w+forward_kernel<float, true", 256, 256 * 16 * 4 * 4),
    (r"lss\w+backward_kernel<(bf16|fp16), true, false", 256, 256 * 16 * 2 * 4),
    (r"lss\w+backward_kernel<(bf16|fp16), true, true", 512, 512 * 8 * 2 * 4),
    (r"lss\w+backward_kernel<float, true, false", 256, 256 * 16 * 4 * 4),
    (r"lss\w+backward_kernel<float, true, true", 512, 512 * 8 * 4 * 4),
    (r"lss\w+wide\w*_kernel", 512, 0),
    (r"line_deviation_backward::(along|write)_kernel<double", 256, 67584),
    (r"line_deviation_backward::(along|write)_kernel", 256, 34048),
)


@dataclass
class Instruction:
    """One instruction: where, what, and where it may jump."""

    address: int
    text: str
    target: int | None = None  # of a branch

    @property
    def always(self) -> bool:
        """Whether a branch is always taken; one on divergence, `BRA.DIV`, hardly ever is."""
        return re.match(r"BRA\s+0x", self.text) is not None

    def moved(self) -> int:
        """Return the bytes that a thread moves between the processor and global memory."""
        if not re.search(r"\b(LDG|STG|LDGSTS)\b", self.text):
            return 0
        width = re.search(r"\.(128|64|U16|S16|16|U8|S8|8)\b", self.text)
        return {"128": 16, "64": 8, "U16": 2, "S16": 2, "16": 2, "U8": 1, "S8": 1, "8": 1}.get(
            width[1] if width else "", 4
        )

    def shared(self) -> int:
        """Return the bytes that a thread loads from shared memory in packs."""
        width = re.search(r"\bLDS\.(128|64)\b", self.text)
        return int(width[1]) // 8 if width else 0


@dataclass
class Kernel:
    """A kernel as compiled: its code, and what a block takes."""

    name: str
    code: list[Instruction] = field(default_factory=list)
    registers: int = 0
    static_shared: int = 0
    stack: int = 0
    local: int = 0


def tool(name: str) -> str | None:
    """Find a tool of the CUDA toolkit: on PATH, or in the package of that tool."""
    packaged = (Path(folder) / "nvidia" / "cu13" / "bin" / name for folder in sys.path)
    return shutil.which(name) or next((str(path) for path in packaged if path.exists()), None)


def _cuobjdump(*arguments: str) -> str:
    program, disassembler = tool("cuobjdump"), tool("nvdisasm")
    if program is None or disassembler is None:
        raise SystemExit(
            "cuobjdump and nvdisasm are needed: they are in the CUDA toolkit and in the `bench` extra."
        )
    path = f"{Path(disassembler).parent}:/usr/bin:/bin"
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=True, env={"PATH": path}
    ).stdout


def readable(symbol: str) -> str:
    """Return file::kernel<arguments> of a mangled symbol, arguments as they are called here."""
    file = re.search(r"_\d+_(\w+?)_cu_[0-9a-f]{8}", symbol)
    names = {"13__nv_bfloat16": "bf16", "6__half": "fp16", "f": "float", "d": "double"}
    rest = symbol[file.end() :] if file else symbol
    name = re.match(r"(?:_\d+|_ZN?)?(\d+)", rest)
    if name is None:
        return symbol
    # The length stands before the name, behind the digits of a hash: as many digits as fit the name.
    for digits in range(1, len(name[1]) + 1):
        length = int(name[1][-digits:])
        found, after = rest[name.end() : name.end() + length], rest[name.end() + length :]
        if (
            len(found) == length
            and re.fullmatch(r"[a-z]\w*", found)
            and after[:1] in ("I", "E", "v", "P", "f", "")
        ):
            break
    else:
        return symbol
    arguments = re.match(r"I((?:13__nv_bfloat16|6__half|f|d|L[bi]\d+E)+)E", after)
    parts = re.findall(r"13__nv_bfloat16|6__half|f|d|L[bi]\d+E", arguments[1]) if arguments else []
    shown = [
        ("false", "true")[int(part[2])]
        if part.startswith("Lb")
        else part[2:-1]
        if part[0] == "L"
        else names[part]
        for part in parts
    ]
    return (f"{file[1]}::" if file else "") + found + (f"<{', '.join(shown)}>" if shown else "")


def kernels_in(path: Path, arch: str) -> list[Kernel]:
    """Return the kernels of a file that were compiled for `arch`."""
    found: dict[str, Kernel] = {}
    name = ""
    for line in _cuobjdump("-arch", arch, "-sass", str(path)).splitlines():
        if match := re.search(r"Function : (\S+)", line):
            name = match[1]
            found[name] = Kernel(readable(name))
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", match[2])
            found[name].code.append(
                Instruction(int(match[1], 16), match[2], int(target[1], 16) if target else None)
            )
    for line in _cuobjdump("-arch", arch, "-res-usage", str(path)).splitlines():
        if match := re.search(r"Function (\S+):", line):
            name = match[1]
        elif "REG:" in line and name in found:
            used = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", line)}
            kernel = found[name]
            kernel.registers, kernel.static_shared = used["REG"], used["SHARED"]
            kernel.stack, kernel.local = used["STACK"], used["LOCAL"]
    return list(found.values())


@dataclass
class Loop:
    """The way through a loop that moves the most bytes, reads the most packs, and is the shortest."""

    instructions: int
    moved: int  # bytes a thread
    groups: int  # of copies that may be in flight when the next one is waited for


def inner_loop(code: list[Instruction]) -> Loop | None:
    """Return the loop over memory with the most instructions that has no other one inside; None: no loop."""
    at = {instruction.address: place for place, instruction in enumerate(code)}
    spans = [
        (at[instruction.target], place)
        for place, instruction in enumerate(code)
        if instruction.target is not None and instruction.target in at and at[instruction.target] <= place
    ]
    spans = [span for span in spans if span[1] > span[0] and any(i.moved() for i in code[span[0] : span[1]])]
    innermost = [
        (first, last)
        for first, last in spans
        if not any((a, b) != (first, last) and first <= a and b <= last and a != first for a, b in spans)
    ]
    loops = [loop for first, last in innermost if (loop := _through(code, first, last, at)) is not None]
    return max(loops, key=lambda loop: (loop.instructions, loop.moved), default=None)


def _through(code: list[Instruction], first: int, last: int, at: dict[int, int]) -> Loop | None:
    """Take the best way from the first instruction to the last, forward branches only."""
    widest = max(instruction.moved() for instruction in code[first : last + 1])
    # A value may be read of shared memory twice, now and as the one before; more is a way for rare values.
    most_shared = 2 * sum(own for i in code[first : last + 1] if 2 * (own := i.moved()) > widest)
    best: dict[int, tuple[int, int, int]] = {
        first: (0, 0, 0)
    }  # before a place: bytes, shared ones, less instructions
    for place in range(first, last + 1):
        if place not in best:
            continue
        moved, shared, fewer = best[place]
        own = code[place].moved()
        moved += own if 2 * own > widest else 0
        after = (moved, min(shared + code[place].shared(), most_shared), fewer - 1)
        if place == last:
            waits = [re.search(r"DEPBAR\.LE SB0, 0x(\d+)", i.text) for i in code[first : last + 1]]
            groups = max((int(wait[1]) + 1 for wait in waits if wait), default=1)
            return Loop(-after[2], after[0], groups) if after[0] else None
        for following in _after(code, place, at):
            if place < following <= last and after > best.get(following, (-1, 0, 0)):
                best[following] = after
    return None


def _after(code: list[Instruction], place: int, at: dict[int, int]) -> Iterator[int]:
    instruction = code[place]
    if re.match(r"(EXIT|RET)\b", instruction.text):
        return
    if instruction.target is not None and instruction.target in at:
        yield at[instruction.target]
    if not instruction.always:
        yield place + 1


def launch_of(kernel: Kernel) -> tuple[int, int]:
    """Return threads and dynamic shared memory of a block."""
    return next(
        ((threads, shared) for name, threads, shared in LAUNCHES if re.search(name, kernel.name)), (256, 0)
    )


def resident_warps(kernel: Kernel, arch: Architecture) -> int:
    """Return how many warps a processor holds at a time."""
    threads, dynamic = launch_of(kernel)
    warps = -(-threads // WARP)
    registers = -(-max(kernel.registers, 1) * WARP // 256) * 256 * warps
    shared = max(kernel.static_shared, RESERVED_SHARED) + dynamic
    return warps * min(arch.warps // warps, arch.registers // registers, arch.shared // shared)


def report(kernel: Kernel, arch: Architecture) -> str | None:
    """Return one line of the table; None for a kernel without a loop over memory."""
    loop = inner_loop(kernel.code)
    if loop is None:
        return None
    warps = resident_warps(kernel, arch)
    a_byte = loop.instructions / (loop.moved * WARP)
    flying = warps * WARP * loop.moved * loop.groups
    issued = arch.issue * 4 * arch.processors * arch.clock / (a_byte * arch.bandwidth)
    little = flying * arch.processors / (arch.latency * arch.bandwidth)
    share = (1 + issued**-4 + little**-4) ** -0.25  # two limits near each other cost both
    bound = "issue" if issued < little else "latency"
    return (
        f"{kernel.name[:72]:72} {loop.instructions:5} {a_byte:7.3f} {kernel.registers:4} "
        f"{kernel.static_shared + launch_of(kernel)[1]:7} {warps:4} {flying / 1024:7.1f} {share:6.0%} {bound}"
    )


def check(kernels: list[Kernel]) -> list[str]:
    """Return a sentence for each kernel that must not be built so."""
    wrong = []
    for kernel in kernels:
        if kernel.stack or kernel.local:
            wrong.append(
                f"{kernel.name} uses {kernel.stack + kernel.local} bytes of stack or spilled registers"
            )
        if kernel.static_shared > MOST_STATIC_SHARED + RESERVED_SHARED:
            wrong.append(
                f"{kernel.name} has {kernel.static_shared} bytes of static shared memory, 48 KiB at most"
            )
    return wrong


def main() -> int:
    """Print the table, or what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="sm_90")
    parser.add_argument("--kernel", default="")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.file is None:
        from geodesic_fast import _C

        options.file = Path(_C.__file__)
    kernels = [
        each for each in kernels_in(options.file, options.arch) if re.search(options.kernel, each.name)
    ]
    if options.check:
        wrong = check(kernels)
        print(*wrong, f"{len(kernels)} kernels, {len(wrong)} wrong", sep="\n")
        return bool(wrong)
    head = f"{'kernel, ' + options.arch:72} {'loop':>5} {'i/byte':>7} {'regs':>4} {'shared':>7} {'warp':>4} "
    print(head + f"{'KB fly':>7} {'share':>6} bound by")
    lines = (report(kernel, ARCHITECTURES[options.arch]) for kernel in kernels)
    print(*sorted(line for line in lines if line), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
