# SPDX-License-Identifier: MIT
"""Gradients of random tracks of every kind against their formulas in extended precision.

Run as `python tests/fuzz_gradients.py --seconds 600 --seed 1`. The cases are those of fuzz_metrics.py.
"""

import itertools

import numpy as np
import torch
from fuzz_metrics import directions, length, main, wide
from known_tracks import laid_out

import geodesic_fast as gf

SPACINGS = 4  # units in the last place of what a derivative is summed from, beside the plain formula's error
ARRANGEMENTS = 6  # of the features, over which the plain formula's error is taken: one may be right by luck


def values_of(given):
    return given if isinstance(given, tuple | list) else [given]


def gradients(x, function, weights, layout="layer-major"):
    """Return d/dx of the weighted sum of what a function gives, (n+1, m, d)."""
    arranged, dim = laid_out(x, layout)
    layers = arranged if isinstance(arranged, list) else [arranged]
    leaves = [layer.detach().requires_grad_() for layer in layers]
    given = function(leaves if isinstance(arranged, list) else leaves[0], dim)
    total = sum(
        (value * w).where(w != 0, 0.0).sum() for value, w in zip(values_of(given), weights, strict=True)
    )
    found = torch.autograd.grad(total, leaves)
    return torch.stack(found) if isinstance(arranged, list) else found[0].movedim(dim, 0)


def compare(case, name, functions, weights, truth, engine, terms=0):
    """Hold the gradient of each track to twice the plain formula's error; `terms` (m) are what cancels."""
    fast, plain = functions
    info = torch.finfo(case.dtype)
    largest = np.abs(truth).max((0, 2))  # (m)
    known = case.good & (np.maximum(largest, terms) < wide(info.max) / 100)
    for value, weight in zip(values_of(plain(case.x, 0)), weights, strict=True):
        beyond = np.asarray(~value.isfinite() & (weight != 0))
        per_track = beyond.shape[-1:] == known.shape
        known &= ~(beyond.reshape(-1, len(known)).any(0) if per_track else beyond.any())
    if not known.any():
        return
    got = gradients(case.x, fast if engine else plain, weights, case.layout)
    broken = known & ~np.asarray(got.isfinite().all(0).all(-1))
    assert not broken.any(), f"{name}: not finite for tracks {np.flatnonzero(broken)}, largest {largest}"
    spacing = wide(info.eps) * largest + case.eps * terms + wide(info.smallest_normal)
    error = np.abs(np.asarray(got.double()).astype(wide) - truth).max((0, 2))
    if (error <= SPACINGS * spacing)[known].all():
        return
    plain_error = np.zeros_like(error)
    for turn in range(ARRANGEMENTS):
        order = (
            np.random.default_rng(turn).permutation(case.x.shape[-1]) if turn else np.arange(case.x.shape[-1])
        )
        reference = gradients(case.x[..., order], plain, weights)
        off = np.abs(np.asarray(reference.double()).astype(wide) - truth[..., order]).max((0, 2))
        plain_error = np.maximum(plain_error, np.nan_to_num(off, nan=np.inf))
    allowed = 2 * plain_error + SPACINGS * spacing
    bad = known & ~(error <= allowed)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise AssertionError(
            f"{name} of track {at}: error {error[at]:.3g}, allowed {allowed[at]:.3g}, plain's "
            f"{plain_error[at]:.3g}, largest {largest[at]:.3g}"
        )


def points_of_steps(g):
    """Return the gradient of the points (n+1, m, d) that steps of gradient g (n, m, d) give."""
    truth = np.zeros((len(g) + 1, *g.shape[1:]), wide)
    truth[1:] += g
    truth[:-1] -= g
    return truth


def turned(h, u, s):
    """Return the gradient of v whose direction u = v / s has the gradient h; 0 for a zero v."""
    off = h - (h * u).sum(-1, keepdims=True) * u
    return np.where(s[..., None] == 0, 0, off / np.where(s == 0, 1, s)[..., None])


class Known:
    """What the formulas are made of: the steps of the tracks without NaN, inf or a step of length zero."""

    def __init__(self, case):
        x = case.wide
        case.good = np.isfinite(x).all((0, 2)) & (x[1:] != x[:-1]).any(-1).all(0)
        self.x = np.where(case.good[:, None], x, 0)
        self.u, self.s = directions(self.x)
        self.n, self.m = self.s.shape

    def weights(self, case, *shapes):
        """Return random weights, of shape (..., m), 0 for tracks that do not count."""
        on = torch.as_tensor(case.good)
        return [
            torch.as_tensor(case.rng.random((*shape, self.m))).where(on, 0.0).to(case.acc) for shape in shapes
        ]


def check_geometry(case, engine):
    known = Known(case)
    u, s, n = known.u, known.s, known.n
    every = gf.TrackGeometry._fields[:-1]
    fields = [name for name in every if n > 1 or name in ("path_length", "chord", "action")]
    mean = s.mean(0)
    chord = known.x[-1] - known.x[0]
    c = length(chord)
    e = chord / c[:, None]
    total = u.sum(0)
    resultant = length(total)
    off = s - mean
    std = np.sqrt((off * off).mean(0))
    even = std == 0
    for name in fields:
        (w,) = known.weights(case, ())
        if name in ("lss", "lss_normalized"):
            w = w.where(torch.as_tensor((resultant > 1e-3).astype(bool)), 0.0)
        if name in ("chord", "straightness"):
            w = w.where(torch.as_tensor((c > 0).astype(bool)), 0.0)
        weight = np.asarray(w).astype(wide)
        ends, g, terms = np.zeros_like(known.x), np.zeros_like(u), 0
        if name in ("lss", "lss_normalized"):
            share = -n / resultant**3 / (1 if name == "lss" else np.sqrt(wide(n)) - 1)
            g = turned((share * weight)[:, None] * total + 0 * u, u, s)
            terms = np.nan_to_num(np.abs(share * weight * resultant / s.min(0)))
        elif name in ("adjacent_cosine", "turning_angle"):
            for a, b in itertools.pairwise(range(n)):
                for p, q in ((a, b), (b, a)):
                    h, sine = u[q], 1
                    if name == "turning_angle":
                        across = u[q] - (u[q] * u[p]).sum(-1, keepdims=True) * u[p]
                        sine = length(u[a] - u[b]) * length(u[a] + u[b]) / 2
                        h = -across / np.where(sine == 0, np.inf, sine)[:, None]
                    g[p] += turned(h, u[p], s[p])
                    terms = np.maximum(terms, weight / (n - 1) / s[p] / np.where(sine == 0, np.inf, sine))
            g *= (weight / (n - 1))[:, None]
        elif name == "path_length":
            g = u * weight[:, None]
        elif name == "chord":
            ends[-1], ends[0] = e * weight[:, None], -e * weight[:, None]
        elif name == "straightness":
            path = s.sum(0)
            ends[-1] = e * (weight / path)[:, None]
            ends[0] = -ends[-1]
            g = -u * (weight * c / path / path)[:, None]
            terms = weight / path
        elif name == "step_cv":
            by_length = off / (n * np.where(even, np.inf, std) * mean) - std / (n * mean * mean)
            g = u * (np.where(even, 0, by_length) * weight)[..., None]
            terms = weight / (n * np.where(even, np.inf, std)) + weight * std / (n * mean * mean)
        else:
            g = 2 * n * (known.x[1:] - known.x[:-1]) * weight[:, None]
        truth = np.where(case.good[:, None] & (np.asarray(w) != 0)[:, None], points_of_steps(g) + ends, 0)
        compare(
            case, name,
            [lambda x, dim, f=f, name=name: getattr(f(x, dim=dim), name)
             for f in (gf.track_geometry, gf.reference.track_geometry)],
            [w], truth, engine, terms,
        )  # fmt: skip


def check_chord(case, engine):
    known = Known(case)
    x = known.x
    chord, w = x[-1] - x[0], x - x[0]
    c = length(chord)
    case.good &= c > 0
    e = chord / np.where(c == 0, 1, c)[:, None]
    along = (w * e).sum(-1)  # (n+1, m)
    off = w - along[..., None] * e
    off -= (off * e).sum(-1, keepdims=True) * e
    size = length(off)
    (weights,) = known.weights(case, (known.n + 1,))
    weights[0] = weights[-1] = 0
    weights = weights.where(torch.as_tensor((size > 0).astype(bool)), 0.0)
    share = np.asarray(weights).astype(wide)[..., None]
    q = off / np.where(size == 0, 1, size)[..., None]
    truth = share * q / np.where(c == 0, 1, c)[:, None]
    of_chord = (
        -(share * (along[..., None] * q + size[..., None] * e)).sum(0) / np.where(c == 0, 1, c * c)[:, None]
    )
    truth[0] = -truth.sum(0) - of_chord
    truth[-1] += of_chord
    functions = [
        lambda x, dim, f=f: f(x, dim=dim) for f in (gf.chord_deviation, gf.reference.chord_deviation)
    ]
    slant = length(w) / np.where(size == 0, np.inf, size) / np.where(c == 0, 1, c)
    compare(case, "chord_deviation", functions, [weights], truth, engine, (share[..., 0] * slant).max(0))


def check_line(case, engine):
    known = Known(case)
    u, s, n = known.u, known.s, known.n
    for reduction in ("none", "mean"):
        if reduction == "mean" and not case.good.all():
            continue
        shape = (n, n, known.m) if reduction == "none" else (n, n, 1)
        on = torch.as_tensor(case.good) if reduction == "none" else torch.ones(1, dtype=torch.bool)
        weights = torch.as_tensor(case.rng.random(shape)).where(on, 0.0).to(case.acc)
        weights[torch.arange(n), torch.arange(n)] = 0
        both = np.asarray(weights).astype(wide)
        both = (both + both.swapaxes(0, 1)) / (1 if reduction == "none" else known.m) + np.zeros(
            (n, n, known.m)
        )
        h = -np.einsum("klm,lmd->kmd", both, u)
        truth = points_of_steps(turned(h, u, s))
        w = weights.movedim(-1, 0) if reduction == "none" else weights[..., 0]
        functions = [
            lambda x, dim, f=f, reduction=reduction: f(x, dim=dim, reduction=reduction)
            for f in (gf.line_deviation, gf.reference.line_deviation)
        ]
        terms = (np.abs(both).sum(1) / s).max(0)
        compare(case, f"line_deviation {reduction}", functions, [w], truth, engine, terms)


def check_steps(case, engine):
    known = Known(case)
    u, s, x = known.u, known.s, known.x
    size = length(x)  # (n+1, m)
    case.good &= (size > 0).all(0)
    e = x / np.where(size == 0, 1, size)[..., None]
    n = known.n
    for at, name in enumerate(gf.StepGeometry._fields):
        if name == "turning_cosine" and n == 1:
            continue
        (weights,) = known.weights(case, (n - (name == "turning_cosine"),))
        w = np.asarray(weights).astype(wide)[..., None]
        g, points, terms = np.zeros_like(u), np.zeros_like(x), 0
        r = np.where(size == 0, 1, size)[..., None]
        if name == "length":
            g = w * u
        elif name == "relative_length":
            g = w * u / r[:-1]
            points[:-1] = -w * s[..., None] / r[:-1] / r[:-1] * e[:-1]
        elif name == "state_cosine":
            points[:-1] += turned(w * e[1:], e[:-1], size[:-1])
            points[1:] += turned(w * e[:-1], e[1:], size[1:])
            terms = (w / r[1:] + w / r[:-1]).max((0, 2))
        elif name == "update_cosine":
            g = turned(w * e[:-1], u, s)
            points[:-1] = turned(w * u, e[:-1], size[:-1])
            terms = (w / s[..., None] + w / r[:-1]).max((0, 2))
        else:
            g[:-1] += turned(w * u[1:], u[:-1], s[:-1])
            g[1:] += turned(w * u[:-1], u[1:], s[1:])
            terms = (w / s[1:, :, None] + w / s[:-1, :, None]).max((0, 2))
        functions = [
            lambda x, dim, f=f, at=at: f(x, dim=dim)[at]
            for f in (gf.step_geometry, gf.reference.step_geometry)
        ]
        truth = np.where(case.good[:, None], points_of_steps(g) + points, 0)
        compare(case, name, functions, [weights], truth, engine, terms)


def check_distance(case, engine):
    known = Known(case)
    m = known.m
    case.good = np.isfinite(case.wide).all((0, 2))
    x = np.where(case.good[:, None], case.wide, 0)
    v = x[:, :, None] - x[:, None]  # (n+1, m, m, d)
    each = length(v)
    nearest = each.argmin(0)
    least = np.sort(each, axis=0)
    plain = least[0] > 0
    if len(least) > 1 and case.kind != "grid":  # which layer is nearest must not hang on rounding
        plain &= least[1] > least[0] * (1 + 64 * case.eps)
    most = wide(torch.finfo(case.acc).max) / 4  # beyond which a distance leaves the type
    plain &= case.good[:, None] & case.good & (each.max(0) < most)
    weights = torch.as_tensor(case.rng.random((m, m))).where(torch.as_tensor(plain), 0.0).to(case.acc)
    truth = np.zeros_like(x)
    for i, j in np.argwhere(plain):
        at = nearest[i, j]
        g = wide(weights[i, j]) * v[at, i, j] / each[at, i, j]
        truth[at, i] += g
        truth[at, j] -= g
    functions = [lambda x, dim, f=f: f(x, dim=dim) for f in (gf.track_distance, gf.reference.track_distance)]
    compare(case, "track_distance", functions, [weights], truth, engine)
    found = case.call(gf.nearest_track if engine else gf.reference.nearest_track)
    index, layer = found.track.numpy(), found.layer.numpy()
    on = (index >= 0) & case.good & plain[np.arange(m), index]
    weights = torch.as_tensor(case.rng.random(m)).where(torch.as_tensor(on), 0.0).to(case.acc)
    truth = np.zeros_like(x)
    for i in np.flatnonzero(on):
        at, j = layer[i], index[i]
        g = wide(weights[i]) * v[at, i, j] / each[at, i, j]
        truth[at, i] += g
        truth[at, j] -= g
    functions = [
        lambda x, dim, f=f: f(x, dim=dim).distance for f in (gf.nearest_track, gf.reference.nearest_track)
    ]
    compare(case, "nearest_track", functions, [weights], truth, engine)


CHECKS = (check_geometry, check_chord, check_line, check_steps, check_distance)


if __name__ == "__main__":
    raise SystemExit(main(CHECKS, __doc__))
