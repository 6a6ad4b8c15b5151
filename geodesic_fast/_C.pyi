# SPDX-License-Identifier: MIT
# What csrc/module.cpp and csrc/bind offer. Addresses are whole numbers, 0 for none.
from collections.abc import Sequence

version: str
instruction_set: str
compiler: str
openmp: bool
cuda_archs: str

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

def track_geometry_forward(
    tracks: Tracks,
    zero_step: int,
    only_lss: bool,
    fields: int,
    zero_steps: int,
    direction_sum: int,
    lengths: int,
    place: Place,
    /,
) -> None: ...
def track_geometry_forward_workspace(tracks: Tracks, place: Place, /) -> int: ...
def track_geometry_backward(
    tracks: Tracks,
    gradient: Tracks,
    zero_step: int,
    only_lss: bool,
    grad_fields: int,
    direction_sum: int,
    lengths: int,
    workspace: int,
    place: Place,
    /,
) -> None: ...
def track_geometry_backward_workspace(tracks: Tracks, place: Place, /) -> int: ...
def track_accumulator_update(
    tracks: Tracks,
    zero_step: int,
    direction_sum: int,
    direction: int,
    direction_low: int,
    sums: int,
    place: Place,
    /,
) -> None: ...
def track_accumulator_finish(
    tracks: Tracks,
    zero_step: int,
    direction_sum: int,
    direction: int,
    direction_low: int,
    sums: int,
    fields: int,
    zero_steps: int,
    place: Place,
    /,
) -> None: ...
def chord_deviation_forward(tracks: Tracks, deviation: int, along: int, place: Place, /) -> None: ...
def chord_deviation_backward(
    tracks: Tracks, gradient: Tracks, grad: int, deviation: int, along: int, place: Place, /
) -> None: ...
def step_geometry_forward(tracks: Tracks, fields: int, kept: int, place: Place, /) -> None: ...
def step_geometry_backward(
    tracks: Tracks,
    gradient: Tracks,
    grad_fields: int,
    fields: int,
    kept: int,
    workspace: int,
    place: Place,
    /,
) -> None: ...
def step_geometry_backward_workspace(tracks: Tracks, place: Place, /) -> int: ...
def line_deviation_forward(
    tracks: Tracks,
    zero_step: int,
    sums: int,
    counts: int,
    deviation: int,
    workspace: int,
    place: Place,
    /,
) -> None: ...
def line_deviation_forward_workspace(tracks: Tracks, each: bool, place: Place, /) -> int: ...
def line_deviation_backward(
    tracks: Tracks, gradient: Tracks, weights: int, each: bool, workspace: int, place: Place, /
) -> None: ...
def line_deviation_backward_workspace(tracks: Tracks, place: Place, /) -> int: ...
def track_pairs_prepare(pairs: Pairs, place: Place, /) -> None: ...
def track_distance_forward(
    pairs: Pairs, row_begin: int, row_end: int, distance: int, layer: int, place: Place, /
) -> None: ...
def track_distance_backward(
    tracks: Tracks,
    other: Tracks,
    gradient: Tracks,
    of_other: bool,
    weights: int,
    layer: int,
    place: Place,
    /,
) -> None: ...
def nearest_track(
    pairs: Pairs,
    row_begin: int,
    row_end: int,
    column_begin: int,
    column_end: int,
    labels: int,
    distance: int,
    index: int,
    layer: int,
    workspace: int,
    place: Place,
    /,
) -> None: ...

class ProductTile:
    def __init__(self, product: int, rows: int, cols: int, stride: int) -> None: ...

def ots_softmin(
    tile: ProductTile,
    b: int,
    log_supply: int,
    epsilon: float,
    a: int,
    col_sum: int,
    col_best: int,
    place: Place,
    /,
) -> None: ...
def ots_column_best(tile: ProductTile, a: int, best: int, place: Place, /) -> None: ...
def ots_list(
    tile: ProductTile,
    b: int,
    q: int,
    p: int,
    low: int,
    theta: float,
    keep: int,
    limit: int,
    best: int,
    start: int,
    count: int,
    columns: int,
    capacity: int,
    used: int,
    place: Place,
    /,
) -> None: ...
def ots_edge_costs(
    x: int,
    y: int,
    is_double: bool,
    x_stride: int,
    y_stride: int,
    d: int,
    x_shift: int,
    y_shift: int,
    row: int,
    col: int,
    edges: int,
    cost: int,
    threads: int,
    /,
) -> None: ...

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

def ots_dense_costs(problems: DenseProblems, threads: int, /) -> None: ...
def ots_dense_assignments(problems: DenseProblems, threads: int, /) -> bool: ...

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
