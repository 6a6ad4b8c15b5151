# SPDX-License-Identifier: MIT
"""Scores of problems of every family, dtype, scale and method against exact numbers, without end.

python tests/fuzz_ots.py --seconds 600 --seed 0

A problem is one seed. Most have up to 7 points and are compared with all permutations in exact fractions;
every eighth has up to 60 and is compared with an assignment in whole numbers. Every third is the middle one
of a batch.
"""

import argparse
import collections
import time

import torch
from exact_transport import exact_score, most_fixed_score, problem

from geodesic_fast import ots


def scores(seed):
    """Return the problem's family, whether `ots` is certain, its score, and the exact one."""
    large = seed % 8 == 7
    family, x, y, method = problem(seed, 60 if large else 7)
    expected = most_fixed_score(x, y) if large else exact_score(x, y)
    if seed % 3 > 0:
        result = ots(x, y, method=method)
        return family, result.certified, result.score, expected
    many = ots(torch.stack((y, x, x)), torch.stack((x, y, x)), batch_dims=1, method=method)
    return family, bool(many.certified.all()), many.score[1].item(), expected


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--problems", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ends, seed = time.monotonic() + options.seconds, options.seed
    tried, wrong, uncertified = (collections.Counter() for _ in range(3))
    while time.monotonic() < ends and seed < options.seed + options.problems:
        family, certified, score, expected = scores(seed)
        tried[family] += 1
        if not certified:
            uncertified[family] += 1
            print(f"not certified: seed {seed}, {family}")
        elif score != expected:
            wrong[family] += 1
            print(f"wrong: seed {seed}, {family}: {score}, exact {expected}")
        seed += 1
    for family, count in tried.items():
        print(f"{family:16} {count:8} tried {wrong[family]:6} wrong {uncertified[family]:6} not certified")
    print(f"{tried.total()} problems, {wrong.total()} wrong, {uncertified.total()} not certified")
    raise SystemExit(bool(wrong or uncertified))


if __name__ == "__main__":
    main()
