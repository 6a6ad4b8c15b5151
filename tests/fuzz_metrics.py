# SPDX-License-Identifier: MIT
"""Random tracks of every kind against extended precision.

Run as `python tests/fuzz_metrics.py --seconds 600 --seed 1`.
A case is one seed. GEODESIC_FAST_CPU chooses the instruction set; --no-engine takes the references alone.
"""

import argparse
import itertools
import time
import warnings

import numpy as np
import torch
from known_tracks import DTYPES, LAYOUTS, laid_out

import geodesic_fast as gf

wide = np.longdouble
FIELDS = gf.TrackGeometry._fields[:-1]
ROUNDINGS = 12  # how many units in the last place, times its condition, an answer may err
KINDS = ("walk", "line", "states", "zigzag", "grid", "closed", "circle", "resting")


class Case:
    """One random call: tracks as the function sees them, and as extended precision does."""

    def __init__(self, seed):
        self.seed = seed
        rng = self.rng = np.random.default_rng(seed)
        n = int(rng.choice([1, 2, 3, 5, 9, 17, 40]))
        m = int(rng.integers(1, 6))
        d = int(rng.choice([1, 2, 3, 4, 7, 16, 33, 64, 100, 257, 1030, 8300], p=[0.09] * 10 + [0.08, 0.02]))
        self.dtype = DTYPES[rng.choice(4, p=[0.1, 0.15, 0.4, 0.35])]
        self.kind = str(rng.choice(KINDS))
        self.layout = str(rng.choice(LAYOUTS))
        self.zero_step = str(rng.choice(["skip", "keep", "propagate"]))
        x = torch.as_tensor(self._points(n, m, d))
        self.scale = self._scale(x)
        if self.kind == "grid":  # equal distances stay equal
            self.scale = 2.0 ** np.floor(np.log2(self.scale))
        self.x = (x * self.scale).to(self.dtype)
        if rng.random() < 0.2 and n > 1:
            layer = int(rng.integers(1, n + 1))
            self.x[layer, rng.random(m) < 0.5] = self.x[layer - 1, 0]
            self.x[layer] = self.x[layer - 1].where(torch.as_tensor(rng.random((m, 1)) < 0.5), self.x[layer])
        if rng.random() < 0.15:
            value = [float("nan"), float("inf"), -float("inf")][rng.integers(3)]
            self.x[rng.integers(n + 1), rng.integers(m), rng.integers(d)] = value
        self.acc = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.eps = wide(torch.finfo(self.acc).eps)
        self.wide = self.x.double().numpy().astype(wide)

    def _points(self, n, m, d):
        rng = self.rng
        if self.kind == "states":
            return rng.normal(size=(n + 1, m, d)) + rng.choice([0.0, 10.0])
        if self.kind == "grid":
            return rng.integers(-2, 3, size=(n + 1, m, d)).astype(float)
        if self.kind == "circle":
            turn = np.arange(n + 1)[:, None] * 10.0 ** rng.uniform(-7, 0) + rng.random(m)
            plane = rng.normal(size=(2, d))
            return np.cos(turn)[..., None] * plane[0] + np.sin(turn)[..., None] * plane[1]
        steps = rng.normal(size=(n, m, d)) + rng.choice([0.0, 0.3, 3.0])
        if self.kind == "line":
            noise = 10.0 ** rng.uniform(-9, -1)
            steps = rng.random((n, m, 1)) * rng.normal(size=(m, d)) + noise * steps
        if self.kind == "zigzag":
            steps = rng.normal(size=(m, d)) * (-1.0) ** np.arange(n)[:, None, None] + 10.0 ** rng.uniform(
                -9, 0
            ) * rng.normal(size=(n, m, d))
        x = np.concatenate((np.zeros((1, m, d)), steps.cumsum(0)))
        if self.kind == "closed":
            x[-1] = x[0] + 10.0 ** rng.uniform(-30, 0) * rng.normal(size=(m, d))
        if self.kind == "resting":
            x[1:] = x[:-1] + (x[1:] - x[:-1]) * (rng.random((n, m, 1)) < 0.7)
        return x + rng.choice([0.0, 0.0, 1.0, 1e4])

    def _scale(self, x):
        """Return what brings the points somewhere between the edges of the type."""
        most = torch.finfo(self.dtype).max / max(x.abs().max().item(), 1.0)
        least = torch.finfo(self.dtype).smallest_normal
        u = self.rng.random()
        if u < 0.5:
            return 1.0
        if u < 0.65:
            return most * 10.0 ** -self.rng.uniform(0, 1)
        if u < 0.75:
            return least * 10.0 ** self.rng.uniform(-3, 3)
        return float(np.exp(self.rng.uniform(np.log(least), np.log(most))))

    def call(self, function, **options):
        arranged, dim = laid_out(self.x, self.layout)
        return function(arranged, dim=dim, **options)

    def __str__(self):
        shape = tuple(self.x.shape)
        how = f"{self.layout} {self.zero_step}"
        return f"seed {self.seed}: {self.kind} {shape} {self.dtype} x {self.scale:.3g} {how}"


def length(v):
    return np.sqrt((v * v).sum(-1))


def directions(x):
    """Return u (n, m, d), s (n, m) of points in extended precision, whose range no square leaves."""
    v = x[1:] - x[:-1]
    s = length(v)
    with np.errstate(all="ignore"):
        return np.where(s[..., None] == 0, 0, v / s[..., None]), s


def true_geometry(case):
    """Return the fields of track_geometry (m), and how much each magnifies rounding."""
    x, policy = case.wide, case.zero_step
    broken = ~np.isfinite(x).all((0, 2))
    u, s = directions(np.where(broken[:, None], 0, x))
    n_all, m = s.shape
    zero = s == 0
    n = (~zero).sum(0) if policy == "skip" else np.full(m, n_all)
    resultant = length(u.sum(0))
    lss = np.where(n == 0, np.nan, n / resultant)
    cosines, angles, pairs = np.zeros(m, wide), np.zeros(m, wide), np.zeros(m)
    for i in range(m):
        kept = [k for k in range(n_all) if policy != "skip" or not zero[k, i]]
        for a, b in itertools.pairwise(kept):
            p, q = u[a, i], u[b, i]
            rest = zero[a, i] or zero[b, i]
            cosines[i] += (p * q).sum()
            angles[i] += np.pi / 2 if rest else 2 * np.arctan2(length(p - q), length(p + q))
            pairs[i] += 1
    mean, chord, path = s.mean(0), length(x[-1] - x[0]), s.sum(0)
    values = {
        "lss": lss,
        "lss_normalized": np.where(n >= 2, (lss - 1) / (np.sqrt(n) - 1), np.nan),
        "path_length": path,
        "chord": chord,
        "straightness": chord / path,
        "adjacent_cosine": cosines / pairs,
        "turning_angle": angles / pairs,
        "step_cv": np.sqrt(((s - mean) ** 2).mean(0)) / mean,
        "action": n_all * (s * s).sum(0),
    }
    reach = np.nan_to_num(lss, nan=1.0, posinf=1e30)
    condition = {
        "lss": reach * reach, "lss_normalized": reach * reach * 4, "path_length": path, "chord": chord,
        "straightness": 1 + 0 * path, "adjacent_cosine": 1 + 0 * path, "turning_angle": 1 + 0 * path,
        "step_cv": 1 + 0 * path, "action": 2 * values["action"],
    }  # fmt: skip
    for name, value in values.items():
        if policy == "propagate" and name in ("lss", "lss_normalized", "adjacent_cosine", "turning_angle"):
            value = np.where(zero.any(0), np.nan, value)
        values[name] = np.where(broken, np.nan, value)
    return values, condition


def true_chord(case):
    x = case.wide
    chord = x[-1] - x[0]
    c = length(chord)
    e = chord / c[:, None]
    w = x - x[0]
    off = w - (w * e).sum(-1, keepdims=True) * e
    off = off - (off * e).sum(-1, keepdims=True) * e
    value = length(off) / c
    value[0] = value[-1] = np.where(np.isfinite(c) & (c > 0), 0, np.nan)
    value[:, ~(np.isfinite(c) & (c > 0))] = np.nan
    value[~np.isfinite(x).all(-1)] = np.nan
    return value, length(np.nan_to_num(w)) / c


def true_line(case):
    u, s = directions(case.wide)
    u, s = np.moveaxis(u, 0, 1), s.T  # (m, n, d)
    dev = np.empty((u.shape[0], u.shape[1], u.shape[1]), wide)
    for k in range(u.shape[1]):
        dev[:, k] = ((u - u[:, k : k + 1]) ** 2).sum(-1) / 2
    broken = ~np.isfinite(s)
    zero = s == 0
    absent = (zero[:, :, None] | zero[:, None]) & ~(broken[:, :, None] | broken[:, None])
    dev = np.where(absent, 1 if case.zero_step == "keep" else np.nan, dev)
    return np.where(broken[:, :, None] | broken[:, None], np.nan, dev), absent


def true_distance(case):
    x = case.wide
    v = x[:, :, None] - x[:, None]
    each = np.where(np.isinf(v).any(-1) & ~np.isnan(v).any(-1), np.inf, length(v))
    return each, np.where(np.isnan(each).any(0), np.nan, each.min(0))


def compare(case, name, got, plain, truth, condition):
    """Hold `got` to twice the error of `plain`, or to a few roundings, at every entry."""
    info = torch.finfo(case.acc)
    got, plain = (np.asarray(t.detach()).astype(wide) for t in (got, plain))
    truth, condition = np.broadcast_to(truth, got.shape), np.broadcast_to(condition, got.shape)
    unknown = ~(case.eps * condition < wide(0.01) * np.maximum(np.abs(truth), 1)) & (
        condition > np.abs(truth) * 1e4
    )
    # Directions that cancel, but for the rounding of the plain formula too.
    unknown |= np.isinf(truth) & (case.eps * condition > 1) & np.isfinite(plain)
    edge = np.abs(truth) > wide(info.max) * (1 - 64 * case.eps)
    assert (np.isnan(got) == np.isnan(truth))[~unknown].all(), f"{name}: NaN in other places\n{got}\n{truth}"
    beyond = np.abs(truth) > wide(info.max) * (1 + 64 * case.eps)
    assert np.isinf(got[beyond & ~unknown]).all(), f"{name}: not inf beyond the type\n{got}\n{truth}"
    plain_known = np.isfinite(plain) & np.isfinite(truth) & ~edge
    plain_error = np.abs(plain - truth)[plain_known & ~unknown].max(initial=wide(0))
    tiny = wide(info.smallest_normal) * wide(info.eps)
    with np.errstate(all="ignore"):
        allowed = np.maximum(2 * plain_error, ROUNDINGS * case.eps * condition) + 4 * tiny
        bad = ~(np.abs(got - truth) <= allowed) & ~unknown & ~edge & ~np.isnan(truth)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(
            f"{name}{at}: got {got[at]:.9g}, true {truth[at]:.12g}, error {abs(got[at] - truth[at]):.3g}, "
            f"allowed {allowed[at]:.3g}, plain's {plain_error:.3g}"
        )


def check_geometry(case, engine):
    fast, plain = (gf.track_geometry, gf.reference.track_geometry)
    got = case.call(fast if engine else plain, zero_step=case.zero_step)
    reference = case.call(plain, zero_step=case.zero_step)
    truth, condition = true_geometry(case)
    for name in FIELDS:
        compare(case, name, getattr(got, name), getattr(reference, name), truth[name], condition[name])
    zeros = (case.x[1:] == case.x[:-1]).all(-1).sum(0)
    assert torch.equal(got.zero_steps, zeros), "zero_steps"
    assert not (got.lss < 1).any()
    assert not (got.straightness > 1).any()
    assert not (got.adjacent_cosine.abs() > 1).any()
    score = case.call(gf.lss if engine else gf.reference.lss, zero_step=case.zero_step)
    torch.testing.assert_close(score, got.lss, rtol=0, atol=0, equal_nan=True)
    if engine:
        check_accumulator(case, truth, condition, reference)


def check_accumulator(case, truth, condition, reference):
    accumulator = gf.TrackAccumulator(zero_step=case.zero_step)
    for layer in case.x:
        accumulator.push(layer)
    for name in FIELDS:
        compare(
            case, "accumulated " + name, getattr(accumulator.geometry, name), getattr(reference, name),
            truth[name], 4 * condition[name],
        )  # fmt: skip


def check_chord(case, engine):
    plain = case.call(gf.reference.chord_deviation)
    got = case.call(gf.chord_deviation) if engine else plain
    truth, reach = true_chord(case)
    compare(case, "chord_deviation", got, plain, truth, np.nan_to_num(reach, nan=1.0, posinf=1.0) + truth)


def check_line(case, engine):
    options = {"reduction": "none", "zero_step": case.zero_step}
    plain = case.call(gf.reference.line_deviation, **options)
    got = case.call(gf.line_deviation, **options) if engine else plain
    truth, absent = true_line(case)
    compare(case, "line_deviation", got, plain, truth, 1)
    assert not (got < 0).any()
    options["reduction"] = "mean"
    plain = case.call(gf.reference.line_deviation, **options)
    got = case.call(gf.line_deviation, **options) if engine else plain
    if case.zero_step == "skip":
        truth = np.where(absent, 0, truth).sum(0) / (~absent).sum(0)
    else:
        truth = truth.mean(0)
    compare(case, "mean line_deviation", got, plain, truth, 1)


def check_distance(case, engine):
    plain = case.call(gf.reference.track_distance)
    got = case.call(gf.track_distance) if engine else plain
    each, truth = true_distance(case)
    compare(case, "track_distance", got, plain, truth, truth)
    leaf = case.x.clone().requires_grad_()
    distance = (gf.track_distance if engine else gf.reference.track_distance)(leaf)
    pick = torch.as_tensor(case.rng.random(distance.shape)).where(distance.isfinite() & (distance > 0), 0.0)
    (found,) = torch.autograd.grad((distance.nan_to_num(0, 0, 0) * pick).sum(), leaf)
    used = (found != 0).any(-1)  # (n+1, m)
    for i in range(case.x.shape[1]):
        wanted = {int(each[:, i, j].argmin()) for j in range(case.x.shape[1]) if pick[i, j] + pick[j, i] > 0}
        others = [layer for layer in range(len(each)) if layer not in wanted]
        if case.kind == "grid":
            assert not used[others, i].any(), f"gradient of track {i} at {used[:, i].nonzero()}, not {wanted}"


def check_nearest(case, engine):
    plain = case.call(gf.reference.nearest_track)
    got = case.call(gf.nearest_track) if engine else plain
    each, pairs = true_distance(case)
    m = len(pairs)
    left_out = np.eye(m, dtype=bool) | np.isnan(pairs)
    truth = np.where(left_out, np.inf, pairs).min(1)
    truth = np.where(np.isnan(case.wide).any((0, 2)), np.nan, truth)
    compare(case, "nearest_track", got.distance, plain.distance, truth, truth)
    index, layer = got.track.numpy(), got.layer.numpy()
    found = np.flatnonzero(index >= 0)
    assert (index[left_out.all(1)] == -1).all(), "an index where there is no other track"
    assert not left_out[found, index[found]].any(), "an index that is left out"
    at = np.full(m, wide(np.inf))
    at[found] = each[layer[found], found, index[found]]
    at = np.where(np.isnan(truth), np.nan, at)
    compare(case, "distance at nearest_track", got.distance, plain.distance, at, at)


def true_steps(case):
    """Return the fields of step_geometry, (n, m) or (n-1, m), and how much each magnifies rounding."""
    x = case.wide
    broken = ~np.isfinite(x).all(-1)  # (n+1, m)
    x = np.where(broken[..., None], 0, x)
    u, s = directions(x)
    size = length(x)
    e = np.where(size[..., None] == 0, 0, x / size[..., None])
    bad = broken[1:] | broken[:-1]
    still, nowhere = bad | (s == 0), broken | (size == 0)
    values = {
        "length": np.where(bad, np.nan, s),
        "relative_length": np.where(bad, np.nan, s / size[:-1]),
        "state_cosine": np.where(nowhere[1:] | nowhere[:-1], np.nan, (e[1:] * e[:-1]).sum(-1)),
        "update_cosine": np.where(still | nowhere[:-1], np.nan, (u * e[:-1]).sum(-1)),
        "turning_cosine": np.where(still[1:] | still[:-1], np.nan, (u[1:] * u[:-1]).sum(-1)),
    }
    return values, {name: np.nan_to_num(value) if "length" in name else 1 for name, value in values.items()}


def check_steps(case, engine):
    plain = case.call(gf.reference.step_geometry)
    got = case.call(gf.step_geometry) if engine else plain
    truth, condition = true_steps(case)
    for name, value in truth.items():
        compare(case, name, getattr(got, name), getattr(plain, name), value, condition[name])


CHECKS = (
    check_geometry, check_chord, check_line, check_distance, check_nearest, check_steps,
)  # fmt: skip


def run(checks, seconds, seed, engine=True, most=None):
    """Check cases from `seed` on for so long, or `most` of them; return how many, and what failed."""
    until, count, failures = time.monotonic() + seconds, 0, []
    while time.monotonic() < until and count != most:
        case = Case(seed + count)
        for check in checks:
            try:
                check(case, engine)
            except Exception as error:
                failures.append(f"{case}\n    {check.__name__}: {type(error).__name__}: {error}")
        count += 1
    return count, failures


def main(checks=CHECKS, description=__doc__):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="stop after so many, whatever the time")
    parser.add_argument("--no-engine", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    count, failures = run(checks, arguments.seconds, arguments.seed, not arguments.no_engine, arguments.cases)
    print(*failures, f"{count} cases, {len(failures)} failures", sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
