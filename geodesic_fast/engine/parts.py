# SPDX-License-Identifier: MIT
"""Long work on pairs, in parts that each take about a second: a progress bar, and Ctrl-C in between."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tqdm import tqdm

_ROWS, _COLUMNS = 192, 192  # the least part handed to the engine, as far as there are so many tracks
_FIRST_PART = 4e9  # multiply-adds
_PART_SECONDS = 1.0
_BAR_AFTER = 5.0  # seconds


def triangle_parts(among: range, m: int, work: int, title: str) -> Iterator[tuple[range, range]]:
    """Yield rows among some and columns that together cover the pairs i < j of m with i among those rows.

    A pair takes `work` multiply-adds.
    """
    rate = _FIRST_PART / work  # pairs a part
    pairs = len(among) * (2 * m - 1 - among.start - among.stop) // 2
    with _bar(pairs, title) as bar:
        first = among.start
        while first < among.stop:
            rows = range(first, min(among.stop, first + _at_least(rate // (m - first), _ROWS)))
            left = first
            while left < m:
                columns = range(left, min(m, left + _at_least(rate // len(rows), _COLUMNS)))
                started = time.monotonic()
                yield rows, columns
                rate = _rate(len(rows) * len(columns), started)
                bar.update(pairs_above(rows, columns))
                left = columns.stop
            first = rows.stop


def row_parts(m: int, others: int, work: int, symmetric: bool, title: str) -> Iterator[range]:
    """Yield rows that together cover m; each is compared with all `others`, or with those from it on."""
    rate, first = _FIRST_PART / work, 0
    with _bar(m * others, title) as bar:
        while first < m:
            width = others - first if symmetric else others
            rows = range(first, min(m, first + _at_least(rate // width, _ROWS)))
            started = time.monotonic()
            yield rows
            rate = _rate(len(rows) * width, started)
            bar.update(len(rows) * others)
            first = rows.stop


def pairs_above(rows: range, columns: range) -> int:
    """Count i < j with i in rows and j in columns."""
    return sum(min(max(columns.stop - i - 1, 0), len(columns)) for i in rows)


def _bar(total: int, title: str) -> tqdm:
    return tqdm(
        total=total, desc=title, unit=" pairs", unit_scale=True, leave=False, delay=_BAR_AFTER, disable=None
    )


def _at_least(count: float, step: int) -> int:
    """Return the multiple of `step` below `count`, or `step`."""
    return max(1, int(count // step)) * step


def _rate(pairs: int, started: float) -> float:
    return pairs * _PART_SECONDS / max(time.monotonic() - started, 1e-6)
