# SPDX-License-Identifier: MIT
"""Float32 inner products of all pairs, stored once or recomputed tile by tile."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from geodesic_fast.transport.planner import Plan
from geodesic_fast.transport.points import Points

_SPARE_SECONDS = 0.1  # by which a deadline may be missed
_TIMED_ROWS = 256


class OutOfTimeError(Exception):
    """The time budget ran out between two tiles."""


class Products:
    """S = (x - shift)(y - shift)^T of this process's rows, float32 in units of 1 / scale^2, tile by tile.

    Of several processes each looks at its own clock within a pass; behind it all agree whether it is late.
    """

    def __init__(self, points: Points, plan: Plan, deadline: float, verbose: bool) -> None:
        self.points, self.plan, self.deadline = points, plan, deadline
        self.show = verbose or (plan.seconds > 10 and sys.stderr.isatty())
        self.show = self.show and points.processes.rank == 0
        self.passes, self.pass_seconds = 0, 0.0
        self.one_more_fits: bool | None = None  # said when the time is up: a look and a tile late at most
        self._looked = float("inf")
        self._stored: Tensor | None = None
        self._columns: Tensor | None = None
        self._buffer: Tensor | None = None

    def tiles(self, stage: str, every: int = 1) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, tile) of each `every`-th row; OutOfTimeError when the deadline is near."""
        own, rows = self.points.own, self.plan.tile_rows
        if self.plan.stored and self._stored is None:
            self._store()
        longest, started = self.pass_seconds, time.monotonic()
        with tqdm(total=-(-len(own) // rows), desc=stage, leave=False, disable=not self.show) as bar:
            for start in self._in_time(range(own.start, own.stop, rows)):
                stop = min(start + rows, own.stop)
                yield start, stop, self._tile(slice(start, stop, every))
                if every == 1:  # a sample does not tell what all rows take
                    took = (time.monotonic() - started) * len(own) / (stop - own.start)
                    self.pass_seconds = max(longest, took)
                bar.update()
        self.passes += 1

    def time_a_pass(self, use: Callable[[int, int, Tensor], None]) -> None:
        """Learn from a few rows what a whole pass will take, where none was made yet."""
        own = self.points.own
        if self.pass_seconds > 0 or len(own) == 0:
            return
        if self.plan.stored and self._stored is None:
            self._store()
        stop = min(own.start + min(_TIMED_ROWS, self.plan.tile_rows), own.stop)
        started = 0.0
        for _ in range(2):  # the first time sets up what later tiles find
            started = time.monotonic()
            use(own.start, stop, self._tile(slice(own.start, stop, 1)))
        self.pass_seconds = (time.monotonic() - started) * len(own) / (stop - own.start)

    def check_time(self) -> None:
        """Raise OutOfTimeError unless all have time for one more pass behind this point."""
        self._agree(self._late())

    def work(self, slices: Iterator[None], found: Sequence[np.ndarray]) -> None:
        """Let the first process do what takes a while, all looking at the time; then all have what it found.

        Between two slices an interrupt or a deadline is seen.
        """
        processes, done = self.points.processes, False
        while not done:
            own = processes.rank > 0 or next(slices, self) is self
            done = self._agree(not own and self._late(), own)
        for array in found if processes.size > 1 else ():
            array[:] = processes.same(torch.from_numpy(array)).numpy()

    def release(self) -> None:
        """Give back what is stored, unless a deadline may still ask for one more pass."""
        if self.deadline == float("inf"):
            self._stored = None

    def _in_time(self, items: range) -> Iterator[int]:
        """Yield items while there is time; OutOfTimeError behind them where it is up for anyone."""
        late = False
        for item in items:
            late = self._late()
            if late:
                break
            yield item
        self._agree(late)

    def _late(self) -> bool:
        now = time.monotonic()
        since, self._looked = now - self._looked, now
        late = now + self.pass_seconds - self.deadline
        if late > 0 and self.one_more_fits is None:
            tile = self.pass_seconds * min(1.0, self.plan.tile_rows / max(len(self.points.own), 1))
            self.one_more_fits = self.pass_seconds > 0 and late <= max(_SPARE_SECONDS, since) + tile
        return late > 0

    def _agree(self, late: bool, done: bool = True) -> bool:
        """Return whether all are done; OutOfTimeError on all where one is late."""
        hopeless = late and not self.one_more_fits
        words = self.points.processes.numbers(2 * late + hopeless if late else int(done))
        if max(words) > 1:
            self.one_more_fits = max(words) == 2
            raise OutOfTimeError
        return all(words)

    def _tile(self, rows: slice) -> Tensor:
        first = self.points.own.start
        if self._stored is not None:
            return self._stored[rows.start - first : rows.stop - first : rows.step]
        if self._columns is None:
            self._columns = self.points.block("y", slice(None))  # (cols, d)
            self._buffer = torch.empty(
                (self.plan.tile_rows, self.points.cols), dtype=torch.float32, device=self.points.device
            )
        assert self._buffer is not None
        x = self.points.block("x", rows)
        tile = self._buffer[: len(x)]
        with full_float32(x.device):
            torch.mm(x, self._columns.T, out=tile)
        return tile

    def _store(self) -> None:
        """Compute all products, a slice of features at a time: shifted copies stay small beside them."""
        points, own, rows = self.points, self.points.own, self.points.block_rows
        stored = torch.empty((len(own), points.cols), dtype=torch.float32, device=points.device)
        lefts, starts = range(0, points.d, self.plan.block_features), range(own.start, own.stop, rows)
        bar = tqdm(total=len(lefts) * len(starts), desc="products", leave=False, disable=not self.show)
        with full_float32(points.device), bar:
            for left in lefts:
                features = slice(left, left + self.plan.block_features)
                y = points.block("y", slice(None), features).T
                for start in self._in_time(starts):
                    stop = min(start + rows, own.stop)
                    x = points.block("x", slice(start, stop), features)
                    products = stored[start - own.start : stop - own.start]
                    if left == 0:
                        torch.mm(x, y, out=products)
                    else:
                        products.addmm_(x, y)
                    bar.update()
        self._stored = stored


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Keep TF32, bfloat16 and autocast out of float32 products: their rounding has another bound."""
    with _highest_precision(device), torch.autocast(device.type, enabled=False):
        yield


_guard = threading.Lock()
_inside: Counter[str] = Counter()  # threads that ask for it, by type of device
_before: dict[str, str] = {}  # what the first of them found


@contextlib.contextmanager
def _highest_precision(device: torch.device) -> Iterator[None]:
    """Set what is one setting for all threads; the last one that needs it puts back what was there."""
    with _guard:
        if _inside[device.type] == 0:
            _before[device.type] = _set_precision(device.type, "ieee", "highest")
        _inside[device.type] += 1
    try:
        yield
    finally:
        with _guard:
            _inside[device.type] -= 1
            if _inside[device.type] == 0:
                _set_precision(device.type, _before[device.type], _before[device.type])


def _set_precision(device_type: str, name: str, older_name: str) -> str:
    """Set the precision of float32 products, and return what it was."""
    kind = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    settings = getattr(kind, "matmul", None)
    if settings is not None and hasattr(settings, "fp32_precision"):  # newer torch refuses a mix of both
        before, settings.fp32_precision = settings.fp32_precision, name
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(older_name)
    return before
