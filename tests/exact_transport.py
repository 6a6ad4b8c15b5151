# SPDX-License-Identifier: MIT
"""The transport score without rounding, from the definition, and point pairs that rounding misleads."""

from fractions import Fraction

import numpy as np
import torch
from transport_problems import whole


def exact_score(x, y):
    """Return the score of x, y (m, d): of all optimal permutations, the most fixed points; m up to 12.

    Over sets of columns: the best of the first k rows on each set of k columns is the best of k rows.
    """
    m = len(x)
    own = (y[:, None] == y[None]).all(-1).tolist()
    left, right = ([[Fraction(value) for value in row] for row in p.double().tolist()] for p in (x, y))
    worth = [
        [(sum(a * b for a, b in zip(p, q, strict=True)), own[i][j]) for j, q in enumerate(right)]
        for i, p in enumerate(left)
    ]
    best = {0: (Fraction(0), 0)}
    for i in range(m):
        after = {}
        for taken, (product, fixed) in best.items():
            for j in range(m):
                if taken >> j & 1:
                    continue
                found = product + worth[i][j][0], fixed + worth[i][j][1]
                after[taken | 1 << j] = max(after.get(taken | 1 << j, found), found)
        best = after
    return best[(1 << m) - 1][1] / m


def most_fixed_score(x, y):
    """Return the same for m up to some hundred: shortest augmenting paths, one row after the other.

    Products of coordinates are whole multiples of one power of two, and Python's integers do not round; of
    equal products the pair that leaves a point at its own counts a little more.
    """
    m = len(x)
    own = (y[:, None] == y[None]).all(-1).numpy()
    weights = ~own + (m + 1) * -(whole(x) @ whole(y).T)
    u, v = np.zeros(m, object), np.zeros(m, object)
    owner = np.full(m + 1, -1)  # of each column; column m is where a new row waits
    far = (int(weights.max()) - int(weights.min()) + 1) * (m + 1)  # longer than any path
    for row in range(m):
        owner[m], at = row, m
        distance, before, seen = np.full(m + 1, far, object), np.full(m + 1, m), np.zeros(m + 1, bool)
        while owner[at] >= 0:
            seen[at] = True
            i = owner[at]
            reach = weights[i] - u[i] - v
            if at == m:
                u[i] = reach.min()
                reach = reach - u[i]
            nearer = np.flatnonzero(~seen[:m] & (reach < distance[:m]).astype(bool))
            distance[nearer], before[nearer] = reach[nearer], at
            unseen = np.flatnonzero(~seen[:m])
            at = unseen[np.argmin(distance[unseen])]
            step = distance[at]
            u[owner[seen]] += step
            v[seen[:m]] -= step
            distance[unseen] -= step
        while at != m:
            owner[at], at = owner[before[at]], before[at]
    column = np.empty(m, np.int64)
    column[owner[:m]] = np.arange(m)
    return own[np.arange(m), column].sum() / m


def random(rng, m, d):
    return rng.standard_normal((2, m, d))


def whole_numbers(rng, m, d):
    return rng.integers(-3, 4, (2, m, d)) * 1.0


def outliers(rng, m, d):
    points = rng.standard_normal((2, m, d)) if rng.random() < 0.5 else rng.integers(0, 4, (2, m, d)) * 1.0
    for side in points:
        side[rng.random(m) < 0.3] *= 10.0 ** rng.uniform(8, 15)
    return points


def powers_apart(rng, m, d):
    points = rng.integers(0, 3, (2, m, d)) * 1.0
    points[0, -1], points[1, -1] = 2.0 ** rng.integers(20, 45, 2)
    return points


def scaled_rows(rng, m, d):
    return rng.standard_normal((2, m, d)) * 10.0 ** rng.uniform(-12, 11, (2, m, 1))


def clusters(rng, m, d):
    width, apart = 10.0 ** rng.uniform(-9, 0), 10.0 ** rng.uniform(0, 6)
    centres = apart * rng.standard_normal((int(rng.integers(1, 4)), d))
    return centres[rng.integers(0, len(centres), (2, m))] + width * rng.standard_normal((2, m, d))


def jittered_grid(rng, m, d):
    return whole_numbers(rng, m, d) + 1e-16 * rng.standard_normal((2, m, d))


def shrinking(rng, m, d):
    x, y = rng.standard_normal((2, m, d))
    return x, y * 10.0 ** -rng.uniform(0, 20)


def one_hot(rng, m, d):
    labels = rng.integers(0, d, (2, m))
    x = rng.standard_normal((m, d)) if rng.random() < 0.5 else np.eye(d)[labels[0]]
    return x, np.eye(d)[labels[1]]


def copies(rng, m, d):
    x, y = rng.standard_normal((2, m, d))
    return x[rng.integers(0, max(1, m // 2), m)], y[rng.integers(0, max(1, m // 2), m)]


def squares_apart(rng, m, d):
    x, y = 10.0 ** -rng.uniform(4, 8) * rng.standard_normal((2, m, d))
    return x, y + 10.0 ** rng.uniform(2, 8)


def extremes(rng, m, d):
    return rng.standard_normal((2, m, d)) * 2.0 ** rng.choice([-1070, -1000, -500, 300, 600, 1000])


def wide_range(rng, m, d):
    return rng.standard_normal((2, m, d)) * 2.0 ** rng.integers(-900, 900, (2, m, 1))


def orthogonal(rng, m, d):
    x, y = np.zeros((2, m, d))
    x[:, 0], y[:, -1] = rng.standard_normal((2, m))
    return x, y


def far_constant(rng, m, d):
    """Points that differ only where a common feature is larger by any number of digits."""
    points = rng.integers(-2, 3, (2, m, d)) * 2.0 ** rng.integers(-1074, 900)
    far = np.full((2, m, 1), 2.0 ** rng.integers(-100, 1024))
    return np.concatenate([points, far], axis=2)


def near_ties(rng, m, d):
    """Whole numbers moved by a unit in the last place here and there."""
    points = rng.integers(1, 4, (2, m, d)) * 1.0
    return points + rng.choice([0, 0, 0, 1, -1], points.shape) * np.spacing(points)


def near_the_window(rng, m, d):
    """Whole numbers moved by about as much as decides which pairs are looked at once more."""
    points = rng.integers(0, 3, (2, m, d)) * 1.0
    return points + 10.0 ** rng.uniform(-13, -5) * rng.integers(-1, 2, points.shape)


def nested(rng, m, d):
    """Clusters of clusters of clusters, each so much smaller."""
    points = np.zeros((2, m, d))
    for depth in range(4):
        points += 10.0 ** -(depth * rng.uniform(2, 6)) * rng.integers(0, 2, points.shape)
    return points


def tight_pairs(rng, m, d):
    """Near each x there are two y, or none."""
    x = rng.standard_normal((m, d))
    return x, x[rng.integers(0, m, m)] + 10.0 ** -rng.uniform(3, 17) * rng.standard_normal((m, d))


def wide_coordinates(rng, m, d):
    return rng.standard_normal((2, m, d)) * 2.0 ** rng.integers(-900, 900, (2, m, d))


def units(rng, m, d):
    """Whole numbers and normal ones, each side and each feature in a unit of its own."""
    points = rng.integers(-3, 4, (2, m, d)) * 1.0 if rng.random() < 0.5 else rng.standard_normal((2, m, d))
    points += rng.choice([0.0, 0.0, 3.0, 1e8], (2, 1, d))
    return points * 2.0 ** (rng.integers(-450, 450, (2, 1, 1)) + rng.integers(-450, 450, (2, 1, d)))


def right_angles(rng, m, d):
    """Differences of x and of y at right angles but for their last digit, in units whose squares vanish."""
    x, y = np.zeros((2, m, max(d, 2)))
    angle = rng.uniform(0, 2 * np.pi)
    along, across = (np.array(v) for v in ((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    x[:, :2], y[:, :2] = (rng.standard_normal((m, 1)) * v for v in (along, across))
    return x * 2.0 ** -rng.uniform(400, 700), y * 2.0 ** -rng.uniform(400, 700)


def mixture(rng, m, d):
    """Points of two other families side by side."""
    kinds = (random, whole_numbers, clusters, scaled_rows, one_hot, near_ties, nested, shrinking)
    one, other = (np.stack(kinds[rng.integers(0, len(kinds))](rng, m, d)) for _ in range(2))
    return np.where(rng.random((2, m, 1)) < 0.5, one, other + rng.choice([0.0, 1e3, 1e8]))


FAMILIES = (
    random, whole_numbers, outliers, powers_apart, scaled_rows, clusters, jittered_grid, shrinking, one_hot,
    copies, squares_apart, extremes, wide_range, orthogonal, far_constant, near_ties, near_the_window, nested,
    tight_pairs, wide_coordinates, units, right_angles,
    mixture,
)  # fmt: skip
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
METHODS = ("auto", "dense", "stored", "tiles")


def problem(seed, most=7):
    """Return family, x, y (m, d) in a dtype that holds them, and a method."""
    rng = np.random.default_rng(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    points = family(rng, int(rng.integers(2, most + 1)), int(rng.integers(1, 4)))
    x, y = (torch.from_numpy(np.ascontiguousarray(p)) for p in points)
    dtype = DTYPES[rng.integers(0, 4)]
    if not all(p.to(dtype).isfinite().all() for p in (x, y)):
        dtype = torch.float64
    return family.__name__, x.to(dtype), y.to(dtype), METHODS[rng.integers(0, 4)]
