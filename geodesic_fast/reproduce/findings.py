# SPDX-License-Identifier: MIT
"""Which shapes of the published figures hold in this run, and how sure that is, from the figures alone."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from geodesic_fast.reproduce import summary
from geodesic_fast.reproduce.statistics import resamples
from geodesic_fast.reproduce.summary import Network

HIGH_OTS = 0.8
NEAR_LEAST = 0.25  # of the range
LEARNED = 2.0  # times the accuracy of chance
FLAT = 0.01  # a range of accuracies that tells nothing
RULE = (
    "Each finding is a statement about means over seeds and stages, at every gamma or about all of them "
    "together. It held if it is true of all its parts, did not hold if of none, held in part otherwise, and "
    "was not tested where nothing could be compared. Its confidence is the share of all resamples of the "
    "seeds, drawn with replacement, that give the same verdict: it tells of the choice of seeds alone, not "
    "of other data, widths or optimisers. A gamma is left out where a network's test accuracy is below "
    f"{LEARNED:g} times that of chance, or a score is undefined."
)


@dataclass(frozen=True)
class Finding:
    """A published shape and what became of it."""

    statement: str
    source: str
    verdict: str  # "held", "held in part", "did not hold" or "not tested"
    confidence: float | None  # None: one seed, or not tested
    shows: str


class Means:
    """Figures by kind and gamma: means over stages and over the chosen seeds."""

    def __init__(self, networks: Sequence[Network], gammas: Sequence[float]) -> None:
        self.gammas = list(gammas)
        self.steps = networks[0]["after"]["stages"][0]["n"]
        groups = {(k, g): summary.of(networks, k, g) for k in summary.kinds_of(networks) for g in self.gammas}
        self.seeds = min(map(len, groups.values()), default=0)
        self._values = {
            (figure, *at): summary.values(group, figure).mean(axis=1)
            for figure in summary.FIGURES
            for at, group in groups.items()
        }
        self._falls = {
            at: np.array([_share_falling(network) for network in group]) for at, group in groups.items()
        }
        untrained = {
            k: [n for n in networks if n["kind"] == k and n["before"]] for k in ("residual", "plain")
        }
        self._before = {
            (figure, k): summary.values(group, figure, "before").mean(axis=1)
            for figure in ("lss", "ots")
            for k, group in untrained.items()
        }
        self.chosen = np.arange(self.seeds)

    def over(self, chosen: np.ndarray) -> Means:
        """Return the means over these seeds, each as often as it is named."""
        resampled = copy.copy(self)
        resampled.chosen = chosen
        return resampled

    def of(self, figure: str, kind: str) -> list[float]:
        """Return a figure of the trained networks at each gamma."""
        return [float(self._values[figure, kind, gamma][self.chosen].mean()) for gamma in self.gammas]

    def before(self, figure: str, kind: str) -> float:
        """Return a figure of the untrained networks."""
        return float(self._before[figure, kind][self.chosen].mean())

    def falling(self, kind: str) -> list[float]:
        """Return at each gamma at what share of the layers the variability falls."""
        return [float(self._falls[kind, gamma][self.chosen].mean()) for gamma in self.gammas]


def _share_falling(network: Network) -> float:
    falls = [
        summary.number(b) < summary.number(a)
        for stage in network["after"]["stages"]
        for a, b in itertools.pairwise(stage["collapse"]["variability"])
    ]
    return sum(falls) / len(falls)


@dataclass(frozen=True)
class _Shape:
    statement: str
    source: str
    parts: Callable[[Means], list[bool]]  # one for each gamma, or for each kind; none: not testable
    shows: Callable[[Means], str]


def judge(networks: Sequence[Network], classes: int) -> tuple[list[Finding], dict[float, str]]:
    """Return what became of each published shape, and which gammas were left out, with the reason."""
    left_out = {g: why for g in summary.gammas_of(networks) if (why := _why_left_out(networks, g, classes))}
    means = Means(networks, [g for g in summary.gammas_of(networks) if g not in left_out])
    return [_judge(shape, means) for shape in SHAPES], left_out


def _why_left_out(networks: Sequence[Network], gamma: float, classes: int) -> str:
    for kind in summary.kinds_of(networks):
        group = summary.of(networks, kind, gamma)
        accuracy = summary.values(group, "test_accuracy").mean()
        if not accuracy >= LEARNED / classes:
            return f"the {kind} networks reached a test accuracy of {accuracy:.1%}"
        if not all(np.isfinite(summary.values(group, figure)).all() for figure in ("lss", "ots")):
            return f"a score of a {kind} network is undefined"
    return ""


def _judge(shape: _Shape, means: Means) -> Finding:
    parts = shape.parts(means) if means.gammas else []
    verdict = _verdict(parts)
    if verdict == "not tested":
        return Finding(shape.statement, shape.source, verdict, None, "Nothing here tells this apart.")
    confidence = None
    if means.seeds > 1:
        drawn = map(means.over, resamples(means.seeds))
        same = [_verdict(shape.parts(resampled)) == verdict for resampled in drawn]
        confidence = sum(same) / len(same)
    return Finding(shape.statement, shape.source, verdict, confidence, shape.shows(means))


def _verdict(parts: Sequence[bool]) -> str:
    if not parts:
        return "not tested"
    if all(parts):
        return "held"
    return "held in part" if any(parts) else "did not hold"


def _inner(values: Sequence[float], best: Callable[[Sequence[float]], float]) -> list[bool]:
    """Whether the best of at least three values is at neither end."""
    return [0 < list(values).index(best(values)) < len(values) - 1] if len(values) > 2 else []


def _straight_where_it_learns(means: Means, kind: str) -> list[bool]:
    accuracy, lss = means.of("train_accuracy", kind), means.of("lss", kind)
    if len(lss) < 3 or max(accuracy) - min(accuracy) < FLAT:
        return []
    at_best = lss[accuracy.index(max(accuracy))]
    return [at_best - min(lss) <= NEAR_LEAST * (max(lss) - min(lss))]


def _listed(means: Means, figure: str, kind: str, digits: int = 2) -> str:
    scale, sign = (100, " %") if "accuracy" in figure else (1, "")
    told = [f"{scale * value:.{digits if scale == 1 else 1}f}" for value in means.of(figure, kind)]
    return ", ".join(told) + sign


def _both(means: Means, figure: str) -> str:
    at = ", ".join(f"{gamma:g}" for gamma in means.gammas)
    residual, plain = (_listed(means, figure, kind) for kind in ("residual", "plain"))
    return f"At gamma {at}: residual {residual}; plain {plain}."


_PAPER, _FOLLOW_UP = "Gai and Zhang, CIFAR-100", "Wang, Gai and Zhang, arXiv:2405.00985"
SHAPES = (
    _Shape(
        "Residual networks have a lower LSS than plain ones at every gamma.", _PAPER,
        lambda m: [r < p for r, p in zip(m.of("lss", "residual"), m.of("lss", "plain"), strict=True)],
        lambda m: "LSS. " + _both(m, "lss"),
    ),
    _Shape(
        f"The OTS of residual networks is at least {HIGH_OTS:g} and above that of plain ones at every gamma.",
        _PAPER,
        lambda m: [
            r >= HIGH_OTS and r > p
            for r, p in zip(m.of("ots", "residual"), m.of("ots", "plain"), strict=True)
        ],
        lambda m: "OTS. " + _both(m, "ots"),
    ),
    _Shape(
        "The tracks of plain networks are more crooked than a random walk, LSS above sqrt(n), "
        "at every gamma.",
        _PAPER,
        lambda m: [p > math.sqrt(m.steps) for p in m.of("lss", "plain")],
        lambda m: f"sqrt(n) is {math.sqrt(m.steps):.2f}, n is {m.steps}; "
        f"plain LSS {_listed(m, 'lss', 'plain')}.",
    ),
    _Shape(
        "The LSS of residual networks is not monotone in gamma: it falls, then rises.", _PAPER,
        lambda m: _inner(m.of("lss", "residual"), min),
        lambda m: f"Residual LSS with growing gamma: {_listed(m, 'lss', 'residual', 3)}.",
    ),
    _Shape(
        "Test accuracy is best at a gamma between the least and the largest, for both kinds.", _PAPER,
        lambda m: [
            inner for kind in ("residual", "plain") for inner in _inner(m.of("test_accuracy", kind), max)
        ],
        lambda m: "Test accuracy. " + _both(m, "test_accuracy"),
    ),
    _Shape(
        "Where training accuracy is best, LSS is near its least.", "Gai and Zhang, CIFAR-10",
        lambda m: [
            near for kind in ("residual", "plain") for near in _straight_where_it_learns(m, kind)
        ],
        lambda m: "Training accuracy. " + _both(m, "train_accuracy"),
    ),
    _Shape(
        "Within-class over between-class variability falls at every layer of a residual network.", _FOLLOW_UP,
        lambda m: [share == 1 for share in m.falling("residual")],
        lambda m: "Share of the layers at which it falls: residual "
        + ", ".join(f"{share:.0%}" for share in m.falling("residual"))
        + "; plain " + ", ".join(f"{share:.0%}" for share in m.falling("plain")) + ".",
    ),
    _Shape(
        "Training makes the tracks of residual networks straighter than they were, at every gamma.",
        "a control",
        lambda m: [lss < m.before("lss", "residual") for lss in m.of("lss", "residual")],
        lambda m: f"Residual LSS {m.before('lss', 'residual'):.2f} before training, then "
        f"{_listed(m, 'lss', 'residual')}.",
    ),
    _Shape(
        f"An untrained residual network does not have an OTS of {HIGH_OTS:g} already.",
        "a control",
        lambda m: [m.before("ots", "residual") < HIGH_OTS],
        lambda m: f"Before training: residual {m.before('ots', 'residual'):.3f}, plain "
        f"{m.before('ots', 'plain'):.3f}. A high OTS from before "
        "training is no achievement of training.",
    ),
)  # fmt: skip
