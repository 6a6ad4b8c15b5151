# SPDX-License-Identifier: MIT
# What csrc/module.cpp and csrc/bind offer. Addresses are whole numbers, 0 for none.
from collections.abc import Callable, Sequence
from typing import Any

version: str
instruction_set: str
compiler: str
openmp: bool
cuda_archs: str

# By the names in csrc/kernels.h: each takes the members of its arguments in their order, and a place. The
# others, of the same arguments, tell how many bytes to work in a kernel needs.
kernels: dict[str, Callable[..., Any]]
workspaces: dict[str, Callable[..., int]]

def cuda_runtime_version() -> int: ...
def cuda_driver_version() -> int: ...
def cuda_device_count() -> int: ...

class Tracks:
    def __init__(
        self,
        addresses: Sequence[int],
        layer_stride: int,
        points: int,
        batch_size: Sequence[int],
        batch_stride: Sequence[int],
        features: int,
        dtype: int,
    ) -> None: ...

class Pairs:
    def __init__(
        self,
        tracks: Tracks,
        other: Tracks,
        symmetric: bool,
        scale: int,
        centre: int,
        squares: int,
        other_squares: int,
        kinds: int,
        other_kinds: int,
    ) -> None: ...

class Place:
    def __init__(self, threads: int, device: int, stream: int) -> None: ...

class ProductTile:
    def __init__(self, product: int, rows: int, cols: int, stride: int) -> None: ...

class DenseProblems:
    def __init__(
        self,
        x: int,
        y: int,
        is_double: bool,
        problems: int,
        m: int,
        d: int,
        stride: int,
        steps: int,
        work: int,
        column: int,
        status: int,
        u: int,
        v: int,
        own: int,
        assigned: int,
        gap: int,
    ) -> None: ...

class SparseGraph:
    def __init__(self, rows: int, cols: int, row_start: int, col: int, supply: int, demand: int) -> None: ...

class AssignmentSolver:
    def __init__(self, graph: SparseGraph, cost: int, u: int, v: int, flow: int) -> None: ...
    def run(self, seconds: float, /) -> int: ...
    @property
    def counts(self) -> tuple[int, int, int]: ...

def most_fixed(
    graph: SparseGraph, stay: int, flow: int, row_price: int, col_price: int, seconds: float, /
) -> int: ...
def ots_lower_potentials(
    nodes: int, start: int, head: int, length: int, potential: int, most_looks: int, /
) -> bool: ...
def ots_cycle_blocks(rows: int, cols: int, edges: int, row: int, col: int, block: int, /) -> int: ...
