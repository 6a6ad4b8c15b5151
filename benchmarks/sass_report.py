# SPDX-License-Identifier: MIT
"""Predicts how near its memory's bandwidth each CUDA kernel comes, from its machine code: no GPU is needed.

    python benchmarks/sass_report.py [FILE ...] [--arch sm_90] [--kernel PATTERN] [--check] [--save JSON]

A FILE is a cubin, an object or an extension with CUDA kernels, by default the installed engine. Of each
kernel's inner loop that reads memory and calculates, the instructions on the way that moves the most bytes
are counted, its barrier on the way; loops inside it count once, or not at all where they only write. Two
things may hold it: instructions a byte against what the schedulers issue, and bytes in flight against latency
times bandwidth (Little's law). All shares are predictions, for d = 4096. `--check` only looks for spills,
stack frames and too much static shared memory.

What it does not know: how often loops inside run, and bounds other than memory's. Of several loops that read
memory it shows the one with the widest packs and the most bytes; what it reads again of what the first cache
holds, and how many sweeps there are, is said by hand (`fresh`).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
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


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched at d = 4096 features, and what its loop moves that is not in a cache."""

    threads: int = 256
    shared: int = 0  # dynamic, bytes
    fresh: float = 1  # of the bytes that the loop moves
    sweeps: int = 1  # loops like it over the same bytes
    roots: int = 0  # square roots on its usual way: a way for steps without a length has fewer
    packs: int = (
        0  # of shared memory on its usual way for each it moves: ways around them are for idle threads
    )
    ahead: int = 1  # how many times what the loop moves is on its way, where no instruction waits for it


def _ring(threads: int, values: int, size: int, rows: int = 0) -> int:
    return threads * values * (size * 4 + rows * 4)  # four points in flight, rows of sums


# Of six packs that a loop moves four are new; two, one of the five points around a point and what is written.
FOUR_OF_SIX, POINTS = 4 / 6, 2 / 6
LAUNCHES = (
    (
        r"lss_track_geometry_forward::forward_kernel<(bf16|fp16), true, false",
        Launch(256, _ring(256, 16, 2), roots=2),
    ),
    (
        r"lss_track_geometry_forward::forward_kernel<(bf16|fp16), true, true",
        Launch(256, _ring(256, 16, 2, 1), roots=2),
    ),
    (
        r"lss_track_geometry_forward::forward_kernel<float, true, false",
        Launch(256, _ring(256, 16, 4), roots=2),
    ),
    (
        r"lss_track_geometry_forward::forward_kernel<float, true, true",
        Launch(256, _ring(256, 16, 4, 1), roots=2),
    ),
    (r"lss_track_geometry_forward::forward_kernel<", Launch(512, roots=2)),
    (
        r"lss_track_geometry_backward::backward_kernel<(bf16|fp16), true, false",
        Launch(256, _ring(256, 16, 2), packs=2),
    ),
    (
        r"lss_track_geometry_backward::backward_kernel<(bf16|fp16), true, true",
        Launch(512, _ring(512, 8, 2), packs=2),
    ),
    (
        r"lss_track_geometry_backward::backward_kernel<float, true, false",
        Launch(256, _ring(256, 16, 4), packs=2),
    ),
    (
        r"lss_track_geometry_backward::backward_kernel<float, true, true",
        Launch(512, _ring(512, 8, 4), packs=2),
    ),
    (r"lss_track_geometry_backward::", Launch(packs=2)),
    (r"lss_track_geometry_wide::", Launch(512)),
    (r"chord_deviation::forward_kernel", Launch(fresh=FOUR_OF_SIX, sweeps=2)),
    (r"step_geometry_forward::forward_kernel", Launch(fresh=FOUR_OF_SIX)),
    (r"step_geometry_backward::backward_kernel", Launch(fresh=POINTS)),
    (r"line_deviation_backward::(along|write)_kernel<double", Launch(shared=67584)),
    (r"line_deviation_backward::(along|write)_kernel", Launch(shared=34048)),
    (r"line_deviation_tensor::", Launch(128, 51200)),
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

    @property
    def reads(self) -> bool:
        """Whether it reads global memory."""
        return re.search(r"\b(LDG|LDGSTS)\b", self.text) is not None

    @property
    def calculates(self) -> bool:
        """Whether it works on floating-point numbers."""
        return re.search(r"\b([FD](ADD|MUL|FMA|SETP|MNMX)|HMMA)\b", self.text) is not None

    def shared(self) -> int:
        """Return the bytes that a thread loads from shared memory in packs."""
        width = re.search(r"\bLDS\.(128|64)\b", self.text)
        return int(width[1]) // 8 if width else 0

    def moved(self) -> int:
        """Return the bytes that a thread moves between the processor and global memory."""
        if not self.reads and not re.search(r"\bSTG\b", self.text):
            return 0
        width = re.search(r"\.(128|64|U16|S16|16|U8|S8|8)\b", self.text)
        return {"128": 16, "64": 8, "U16": 2, "S16": 2, "16": 2, "U8": 1, "S8": 1, "8": 1}.get(
            width[1] if width else "", 4
        )


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
    file = re.match(r".*_\d+_(\w+?)_cu_[0-9a-f]{8}", symbol)
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
            and after[:1] in (("I", "E") if file else ("I", "E", "v", "P", "f", ""))
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
    """The way through a loop that moves the most bytes, by its barrier, and is the shortest."""

    instructions: int
    widest: int  # bytes that an instruction moves
    moved: int  # bytes a thread
    groups: int  # of copies that may be in flight when the next one is waited for


def inner_loop(code: list[Instruction], launch: Launch = Launch()) -> Loop | None:
    """Return the loop over memory that moves the widest packs, the most bytes, and has none inside."""
    at = {instruction.address: place for place, instruction in enumerate(code)}
    spans = {
        (at[instruction.target], place)
        for place, instruction in enumerate(code)
        if instruction.target is not None and at.get(instruction.target, place) < place
    }
    spans = {span for span in spans if _is_loop(code, *span, at)}
    reading = {span for span in spans if any(i.reads for i in code[slice(*span)])}
    working = {span for span in reading if any(i.calculates for i in code[slice(*span)])} or reading
    filling = {place for first, last in spans - reading for place in range(first, last + 1)}
    innermost = [span for span in working if not any(span[0] < a and b <= span[1] for a, b in working)]
    loops = [loop for span in innermost if (loop := _through(code, *span, at, filling, launch)) is not None]
    return max(loops, key=lambda loop: (loop.widest, loop.moved, loop.instructions), default=None)


def _is_loop(code: list[Instruction], first: int, last: int, at: dict[int, int]) -> bool:
    """Whether a way leads from the target of a jump back to the jump: code for rare cases jumps back, too."""
    reached = {first}
    for place in range(first, last):
        if place in reached:
            reached.update(following for following in _after(code, place, at) if following > place)
    return last in reached


def _through(
    code: list[Instruction], first: int, last: int, at: dict[int, int], filling: set[int], launch: Launch
) -> Loop | None:
    """Take the best way from the first instruction to the last, forward branches only.

    What moves at the places `filling` is not what the loop is for. More than one barrier, where there is a
    way by one, is for rare values.
    """
    body = code[first : last + 1]
    widest = max(instruction.moved() for instruction in body)
    most_shared = launch.packs * sum(own for each in body if 2 * (own := each.moved()) > widest)
    groups = [re.search(r"DEPBAR\.LE SB0, 0x(\d+)", instruction.text) for instruction in body]
    flying = max((int(group[1]) + 1 for group in groups if group), default=1)
    for most_barriers in (1, len(body)):
        # Of the way to a place: bytes moved, roots, bytes of shared memory, barriers, less the instructions.
        best = {first: (0, 0, 0, 0, 0)}
        for place in range(first, last + 1):
            if place not in best:
                continue
            moved, taken, shared, barriers, fewer = best[place]
            own = 0 if place in filling else code[place].moved()
            barriers += re.search(r"\bBAR\.SYNC", code[place].text) is not None
            if barriers > most_barriers:
                continue
            moved += own if 2 * own > widest else 0
            taken = min(taken + ("MUFU.RSQ" in code[place].text), launch.roots)
            shared = min(shared + code[place].shared(), most_shared)
            after = (moved, taken, shared, barriers, fewer - 1)
            if place == last and after[0] > 0:
                return Loop(-after[4], widest, after[0], flying)
            for following in _after(code, place, at):
                if place < following <= last and after > best.get(following, (-1, 0, 0, 0, 0)):
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


def launch_of(kernel: Kernel) -> Launch:
    """Return how it is launched."""
    return next((launch for name, launch in LAUNCHES if re.search(name, kernel.name)), Launch())


def resident_warps(kernel: Kernel, arch: Architecture) -> int:
    """Return how many warps a processor holds at a time."""
    launch = launch_of(kernel)
    warps = -(-launch.threads // WARP)
    registers = -(-max(kernel.registers, 1) * WARP // 256) * 256 * warps
    shared = max(kernel.static_shared, RESERVED_SHARED) + launch.shared
    return warps * min(arch.warps // warps, arch.registers // registers, arch.shared // shared)


@dataclass(frozen=True)
class Prediction:
    """What holds a kernel, and how near its memory's bandwidth it comes."""

    kernel: str
    instructions: int  # of the loop
    a_byte: float
    registers: int
    shared: int
    warps: int
    kilobytes_in_flight: float
    share: float
    bound: str

    def line(self) -> str:
        """Return a line of the table."""
        return (
            f"{self.kernel[:72]:72} {self.instructions:5} {self.a_byte:7.3f} {self.registers:4} "
            f"{self.shared:7} {self.warps:4} {self.kilobytes_in_flight:7.1f} {self.share:6.0%} {self.bound}"
        )


def predict(kernel: Kernel, arch: Architecture) -> Prediction | None:
    """Return what is predicted of a kernel; None for one without a loop that reads memory."""
    loop = inner_loop(kernel.code, launch_of(kernel))
    if loop is None:
        return None
    launch, warps = launch_of(kernel), resident_warps(kernel, arch)
    a_byte = launch.sweeps * loop.instructions / (loop.moved * launch.fresh * WARP)
    flying = warps * WARP * loop.moved * launch.fresh * max(loop.groups, launch.ahead)
    issued = arch.issue * 4 * arch.processors * arch.clock / (a_byte * arch.bandwidth)
    little = flying * arch.processors / (arch.latency * arch.bandwidth)
    return Prediction(
        kernel.name,
        loop.instructions,
        a_byte,
        kernel.registers,
        kernel.static_shared + launch.shared,
        warps,
        flying / 1024,
        (1 + issued**-4 + little**-4) ** -0.25,  # two limits near each other cost both
        "issue" if issued < little else "latency",
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


def _short(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def main() -> int:
    """Print the table, or what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="sm_90")
    parser.add_argument("--kernel", default="")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--save", type=Path, help="write the predictions to this file, as JSON")
    options = parser.parse_args()
    if not options.files:
        from geodesic_fast import _C

        options.files = [Path(_C.__file__)]
    kernels = [
        each
        for file in options.files
        for each in kernels_in(file, options.arch)
        if re.search(options.kernel, each.name)
    ]
    if options.check:
        wrong = check(kernels)
        print(*wrong, f"{len(kernels)} kernels, {len(wrong)} wrong", sep="\n")
        return bool(wrong)
    arch = ARCHITECTURES[options.arch]
    found = sorted(
        (each for kernel in kernels if (each := predict(kernel, arch))), key=lambda each: each.kernel
    )
    head = f"{'kernel, ' + options.arch:72} {'loop':>5} {'i/byte':>7} {'regs':>4} {'shared':>7} {'warp':>4} "
    print(head + f"{'KB fly':>7} {'share':>6} bound by", *(each.line() for each in found), sep="\n")
    if options.save:
        rows = [json.dumps({name: _short(value) for name, value in asdict(each).items()}) for each in found]
        kernels_text = ",\n  ".join(rows)
        options.save.write_text(f'{{"arch": "{options.arch}", "kernels": [\n  {kernels_text}\n]}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
