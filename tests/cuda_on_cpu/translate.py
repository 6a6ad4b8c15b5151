# SPDX-License-Identifier: MIT
"""translate.py SOURCE TARGET: a CUDA source as C++, what is not C++ in it being calls of the emulated device.

Four things are not: a launch, a dynamic shared array, a `__grid_constant__` parameter (one address for all
threads: a reference), and inline PTX. Line numbers stay.
"""

import re
import sys
from pathlib import Path

LAUNCH = re.compile(r"(\w+)<<<(.+?)>>>\((.*?)\);", re.DOTALL)
DYNAMIC = re.compile(r"extern __shared__ (?:__align__\((\d+)\) )?char (\w+)\[\];")
CONSTANT = re.compile(r"const __grid_constant__ ([\w:]+(?:<[^<>]*>)?) (\w+)")
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
ASM = re.compile(r"\basm(?: volatile)?\((.*?)\);", re.DOTALL)
OPERAND = re.compile(r'"(?:[=+]?\w)"\((.+?)\)\s*(?:,|$)', re.DOTALL)
KERNEL = re.compile(r"\b__global__\s+void\s*(?:__launch_bounds__\([^()]*\))?\s*(\w+)\(")


def ptx_call(match: re.Match[str]) -> str:
    """Turn an asm statement into a call by the name of its instruction: outputs, then inputs."""
    text = match[1]
    code = re.match(r'\s*(?:"(?:[^"\\]|\\.)*"\s*)+', text)[0]
    name = STRING.search(code)[1].split()[0].replace(".", "_")
    parts = text[len(code) :].split(":")[1:3]
    operands = [operand for part in parts for operand in OPERAND.findall(part.strip())]
    call = f"cuda_on_cpu::{name}(CUDA_ON_CPU_SITE, {', '.join(operands)});"
    return call + "\n" * match[0].count("\n")


def translate(text: str) -> str:
    """Return C++ for the CUDA source `text`."""
    text = LAUNCH.sub(r"cuda_on_cpu::launch(reinterpret_cast<const void*>(\1), \2, [&] { \1(\3); });", text)
    text = DYNAMIC.sub(r"char* const \2 = cuda_on_cpu::dynamic_shared(\1);", text)
    text = CONSTANT.sub(r"const \1& \2", text)
    return ASM.sub(ptx_call, text)


def kernel_names(text: str) -> set[str]:
    """Return the names of the kernels that the CUDA source `text` defines."""
    return set(KERNEL.findall(text))


def main() -> None:
    """Translate one file."""
    source, target = map(Path, sys.argv[1:3])
    target.parent.mkdir(parents=True, exist_ok=True)
    head = "#pragma once\n" if target.suffix == ".cuh" else ""
    text = f'{head}#include "inline_ptx.h"\n#line 1 "{source.name}"\n{translate(source.read_text())}'
    target.write_text(text)


if __name__ == "__main__":
    main()
