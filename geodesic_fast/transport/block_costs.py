# SPDX-License-Identifier: MIT
"""Costs of the pairs of many blocks at once, each in a unit of its own: float64 products, or whole numbers.

A block's costs are products -<x_i - s, y_j - t>, which differ from half of its squared distances by a row
term and a column term. Coordinates are whole multiples of one power of two, and Python's integers do not
round.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from geodesic_fast.transport.points import Points
from geodesic_fast.transport.rounding import UNIT_ROUNDOFF, of_listed_product, of_reduced_product

_VALUES_AT_ONCE = 1 << 20
_WHOLE_AT_ONCE = 8 << 20  # bytes
_WHOLE_COPIES = 3
_EXACT_BITS = 50
_LEAST_POWER = -10_000
_NEVER_EXACT = 10_000  # binary digits of what was rounded


class Blocks:
    """Pairs (row, col) of blocks that have nothing to do with each other, with the units on them.

    Pairs are sorted by block, row and column. A row or column that lies in several blocks has a number in
    each, and what it has to give or take there.
    """

    def __init__(
        self, points: Points, row: np.ndarray, col: np.ndarray, block: np.ndarray, units: np.ndarray
    ) -> None:
        self.block, self.units = block, units
        rows, self.row = np.unique(block * points.rows + row, return_inverse=True)
        cols, self.col = np.unique(block * points.cols + col, return_inverse=True)
        self.block_of_row, self.rows = np.divmod(rows, points.rows)
        self.block_of_col, self.cols = np.divmod(cols, points.cols)
        self.supply = np.bincount(self.row, units).astype(np.int32)
        self.demand = np.bincount(self.col, units).astype(np.int32)


@dataclass(frozen=True)
class BlockCosts:
    """Costs of pairs in float64, what they err by, and how large numbers may be that do not round at all."""

    values: np.ndarray
    error: np.ndarray
    exact_up_to: np.ndarray  # 0 where they do round

    def reduced_rounding(self, u: np.ndarray, v: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Bound the rounding of (cost - v) - u for the duals of each pair, for pairs sorted by block."""
        largest = np.maximum(np.maximum(np.abs(self.values), np.abs(u)), np.abs(v))
        exact = (self.exact_up_to > 0) & (_of_blocks(np.maximum, largest, block) <= self.exact_up_to)
        return np.where(exact, 0.0, of_reduced_product(self.error, self.values, u, v))


def product_costs(points: Points, blocks: Blocks) -> BlockCosts:
    """Return -<x_i - s, y_j - t>, in units in which a block's largest are about 1.

    Coordinates round to 2^-53 of themselves, products and their sums to d 2^-53 |x| |y|. Each feature of x is
    in a unit of its own, and that of y makes up for it.
    """
    x, same_x = _centred(points.given("x", blocks.rows), blocks.block_of_row)
    y, same_y = _centred(points.given("y", blocks.cols), blocks.block_of_col)
    power_x, power_y = _units(x, y, blocks)
    x, bits_x = _in_units(x, same_x, power_x, blocks.block_of_row)
    y, bits_y = _in_units(y, same_y, power_y, blocks.block_of_col)
    values = np.empty(len(blocks.row))
    step = max(1, _VALUES_AT_ONCE // points.d)
    for start in range(0, len(values), step):
        some = slice(start, start + step)
        values[some] = -np.einsum("ed,ed->e", x[blocks.row[some]], y[blocks.col[some]])
    norm_x, norm_y = _norms(x), _norms(y)
    error = of_listed_product(points.d) * norm_x[blocks.row] * norm_y[blocks.col]
    bits = (bits_x + bits_y).max(1)
    exact = bits + math.frexp(points.d)[1] <= _EXACT_BITS
    return BlockCosts(values, error, np.where(exact, np.exp2(51.0 - bits), 0.0)[blocks.block])


def _centred(points: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 points of each block less a shift, and which points are so exactly."""
    low, high = (_of_blocks(extreme, points, block) for extreme in (np.minimum, np.maximum))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = high - low
        if not np.isfinite(spread).all():
            near, same = _centred(points / 4, block)
            return near, same & (points / 4 * 4 == points).all(1)
        quantum = np.ldexp(1.0, np.maximum(np.frexp(spread)[1] - 10, -1074))  # shifts in few binary digits
        shift = np.where(spread > 0, np.round((low + spread / 2) / quantum) * quantum, low)
        # Small numbers keep their digits where zero is near.
        shift = np.where(np.maximum(high, -low) <= 2 * spread, 0.0, shift)
    near = points - shift
    back = points - near  # as in the exact difference of two floats
    return near, ((points - (near + back)) + (back - shift) == 0).all(1)


def _units(x: np.ndarray, y: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of two that x and y are divided by, (blocks, d), with one sum for all features.

    A feature's largest x is then about its largest y. What is zero on one side becomes zero on the other.
    """
    of_x, of_y = blocks.block_of_row, blocks.block_of_col
    largest_x, largest_y = _per_block(np.maximum, np.abs(x), of_x), _per_block(np.maximum, np.abs(y), of_y)
    empty = (largest_x == 0) | (largest_y == 0)
    x[empty[of_x]], y[empty[of_y]] = 0.0, 0.0
    power_x, power_y = np.frexp(largest_x)[1], np.frexp(largest_y)[1]
    product = np.where(empty, _LEAST_POWER, power_x + power_y)
    largest = product.max(1, keepdims=True)
    power_x = np.where(empty, 0, power_x - (product - largest) // 2)
    return power_x, np.where(empty, 0, largest - power_x)


def _in_units(
    near: np.ndarray, same: np.ndarray, power: np.ndarray, block: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return points divided by the powers of two of their blocks, and how many bits each feature has."""
    scaled = np.ldexp(near, -power[block])
    same = same & (np.ldexp(scaled, power[block]) == near).all(1)
    return scaled, _per_block(np.maximum, np.where(same[:, None], _bits(scaled), _NEVER_EXACT), block)


def _norms(points: np.ndarray) -> np.ndarray:
    """Return at least the norms of points, each squared in a unit of its own, so that no square vanishes."""
    power = np.frexp(np.abs(points).max(1))[1]
    squares = np.square(np.ldexp(points, -power[:, None])).sum(1)
    return np.ldexp(np.sqrt(squares) * (1 + 2.0**-40), power)


def _bits(points: np.ndarray) -> np.ndarray:
    """Return the least k for each coordinate for which it is a multiple of 2^-k."""
    mantissa, exponent = np.frexp(points)
    whole = np.abs(mantissa * 2.0**53).astype(np.int64)
    trailing = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    return np.where(whole > 0, 53 - trailing - exponent, 0)


def _per_block(extreme: np.ufunc, values: np.ndarray, block: np.ndarray) -> np.ndarray:
    return extreme.reduceat(values, np.flatnonzero(np.diff(block, prepend=-1)), axis=0)


def _of_blocks(extreme: np.ufunc, values: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return the extreme of each one's block."""
    return _per_block(extreme, values, block)[block]


class WholeCosts:
    """Costs of pairs sorted by block, whole numbers in one unit."""

    def __init__(self, cost: Any, block: np.ndarray) -> None:
        self.cost = cost
        length = _bit_length(cost).astype(np.int64)
        self.bits = _of_blocks(np.maximum, length, block) if len(block) else length  # of the block's largest

    @classmethod
    def of(
        cls, points: Points, rows: np.ndarray, cols: np.ndarray, block: np.ndarray, check: Callable[[], None]
    ) -> WholeCosts:
        """Take products of the points given."""
        cost = np.zeros(len(rows), object)
        if len(rows):
            (x, row), (y, col) = (
                (_whole(points.given(which, distinct)), place)
                for which, (distinct, place) in (
                    ("x", np.unique(rows, return_inverse=True)),
                    ("y", np.unique(cols, return_inverse=True)),
                )
            )
        at_once = max(1, _WHOLE_AT_ONCE // (points.d * whole_bytes(points, rows, cols)[0]))
        for start in range(0, len(rows), at_once):
            check()
            some = slice(start, start + at_once)
            cost[some] = -(x[row[some]] * y[col[some]]).sum(1)
        return cls(cost, block)

    def rounded(self) -> BlockCosts:
        """Return the costs in float64, in units in which a block's largest is about 1."""
        values = _scaled(self.cost, self.bits).astype(np.float64)
        exact = np.where(self.bits <= _EXACT_BITS, np.exp2(51.0 - self.bits), 0.0)
        return BlockCosts(values, 2 * UNIT_ROUNDOFF * np.abs(values), exact)

    def less(self, u: np.ndarray, v: np.ndarray, row: np.ndarray, col: np.ndarray, some: np.ndarray) -> Any:
        """Return some costs less whole numbers near the duals of rows and columns, in units of `rounded`."""
        cost = self.cost[some]
        for dual, place in ((u, row), (v, col)):
            bits = np.empty(len(dual), np.int64)
            bits[place] = self.bits
            cost = cost - _nearest(dual, bits)[place[some]]
        return cost


def whole_bytes(points: Points, rows: np.ndarray, cols: np.ndarray) -> tuple[int, int]:
    """Return the bytes that the whole numbers of a pair and of a coordinate take at most, with copies."""
    bits = []
    for which, index in (("x", rows), ("y", cols)):
        mantissa, exponent = np.frexp(points.given(which, np.unique(index)))
        used = exponent[mantissa != 0]
        bits.append(54 + int(used.max() - used.min()) if len(used) else 1)
    product = sum(bits) + points.d.bit_length()
    return _WHOLE_COPIES * _integer_bytes(product), _integer_bytes(max(bits))


def _integer_bytes(bits: int) -> int:
    """Return the bytes of one of Python's integers and of the address of it."""
    return sys.getsizeof(1 << bits) + 8


def _whole(values: np.ndarray) -> Any:
    """Return values less the first of them, whole numbers in one unit."""
    mantissa, exponent = np.frexp(values)
    exponent[mantissa == 0] = exponent.max()
    whole = (mantissa * 2.0**53).astype(np.int64).astype(object)
    whole = whole << (exponent - exponent.min()).astype(object)
    return whole - whole[0]  # shorter numbers where points are close


def _scaled_number(whole: int, bits: int) -> float:
    """Return whole / 2^bits to 2^-52 of itself."""
    short = max(whole.bit_length() - 64, 0)
    return math.ldexp(float(whole >> short), short - int(bits))


def _nearest_number(value: float, bits: int) -> int:
    """Return a whole number near value 2^bits."""
    mantissa, exponent = math.frexp(value)
    whole, shift = int(mantissa * 2.0**53), exponent - 53 + int(bits)
    return whole << shift if shift >= 0 else whole >> -shift


_bit_length: Any = np.frompyfunc(int.bit_length, 1, 1)
_scaled: Any = np.frompyfunc(_scaled_number, 2, 1)
_nearest: Any = np.frompyfunc(_nearest_number, 2, 1)
