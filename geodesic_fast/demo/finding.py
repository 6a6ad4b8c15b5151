# SPDX-License-Identifier: MIT
"""The decision rule: did the paper's finding hold in this run? Computed from the figures alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from geodesic_fast.demo.training import Outcome

TRAINED = 0.80
NEAR_ONE = 0.85
STANDARD_ERRORS = 2.0

RULE = (
    "The finding of the paper: residual networks have straighter tracks than plain ones, and an OTS near 1. "
    "At each L2 strength the residual network is compared with the plain one. The pair is left out if one of "
    f"the two has a test accuracy below {TRAINED:.0%}, or a score that is undefined, or if the tracks have a "
    "single step (always straight). "
    "Straighter: the mean LSS is lower by more than "
    f"{STANDARD_ERRORS:g} standard errors, where the squared standard error is the sum of both LSS variances "
    "over samples, each divided by its number of samples. "
    f"OTS near 1: the residual network's OTS is at least {NEAR_ONE:g} and above the plain network's. "
    "The finding held if both are true at every compared strength, did not hold if there is no compared "
    "strength where both are true, held in part otherwise, and was not tested if no pair could be compared."
)


@dataclass(frozen=True)
class Comparison:
    """The two networks of one L2 strength; `left_out` says why they were not compared, or ""."""

    l2: float
    left_out: str
    straighter: bool
    near_one: bool


@dataclass(frozen=True)
class Finding:
    """The verdict and the two sentences that say what this run shows."""

    verdict: str  # "held", "held in part", "did not hold" or "not tested"
    shows: str
    conclusion: str
    comparisons: tuple[Comparison, ...]


def judge(outcomes: Sequence[Outcome]) -> Finding:
    """Apply `RULE` to the outcomes: one residual and one plain network per L2 strength."""
    residual = {outcome.l2: outcome for outcome in outcomes if outcome.kind == "residual"}
    plain = {outcome.l2: outcome for outcome in outcomes if outcome.kind == "plain"}
    comparisons = tuple(compare(residual[l2], plain[l2]) for l2 in residual)
    verdict = _verdict(comparisons)
    shows = _what_it_shows(list(residual.values()), list(plain.values()))
    return Finding(verdict, shows, _conclusion(verdict, comparisons), comparisons)


def compare(residual: Outcome, plain: Outcome) -> Comparison:
    """Compare the two networks of one L2 strength."""
    left_out = _why_left_out(residual, plain)
    if left_out:
        return Comparison(residual.l2, left_out, straighter=False, near_one=False)
    r, p = residual.after, plain.after
    assert r.ots is not None
    assert p.ots is not None
    error = math.sqrt(r.lss.std**2 / r.lss.samples + p.lss.std**2 / p.lss.samples)
    return Comparison(
        l2=residual.l2,
        left_out="",
        straighter=p.lss.mean - r.lss.mean > STANDARD_ERRORS * error,
        near_one=r.ots.score >= NEAR_ONE and r.ots.score > p.ots.score,
    )


def _why_left_out(residual: Outcome, plain: Outcome) -> str:
    if len(residual.tracks_after) == 2:
        return "a track of one step is always straight"
    for outcome in (residual, plain):
        if outcome.after.test_accuracy < TRAINED:
            return f"the {outcome.kind} network stayed below {TRAINED:.0%} test accuracy"
    for outcome in (residual, plain):
        lss = outcome.after.lss
        if outcome.after.ots is None or not (math.isfinite(lss.mean) and math.isfinite(lss.std)):
            return f"a score of the {outcome.kind} network is undefined"
    return ""


def _verdict(comparisons: Sequence[Comparison]) -> str:
    compared = [c for c in comparisons if not c.left_out]
    both = sum(c.straighter and c.near_one for c in compared)
    if not compared:
        return "not tested"
    if both == len(compared):
        return "held"
    return "held in part" if both else "did not hold"


def _what_it_shows(residual: Sequence[Outcome], plain: Sequence[Outcome]) -> str:
    strengths = _listed([f"{outcome.l2:g}" for outcome in residual])
    samples = residual[0].after.lss.samples + residual[0].after.lss.undefined
    ots_samples = residual[0].after.ots.samples if residual[0].after.ots else samples
    over = f"{samples} test samples" + (f" (OTS over {ots_samples})" if ots_samples != samples else "")
    return (
        f"Over {over} and at L2 {strengths}, the residual networks have mean LSS {_lss(residual)} and OTS "
        f"{_ots(residual)}, the plain networks of the same width and depth mean LSS {_lss(plain)} and OTS "
        f"{_ots(plain)}."
    )


def _conclusion(verdict: str, comparisons: Sequence[Comparison]) -> str:
    compared = [c for c in comparisons if not c.left_out]
    excluded = [c for c in comparisons if c.left_out]
    reasons = "; ".join(
        f"L2 {_listed([f'{c.l2:g}' for c in excluded if c.left_out == reason])}, where {reason}"
        for reason in dict.fromkeys(c.left_out for c in excluded)
    )
    finding = "The paper's finding, straighter tracks and an OTS near 1 for residual networks,"
    if not compared:
        return f"{finding} was not tested in this run: left out were {reasons}."
    straighter = sum(c.straighter for c in compared)
    near_one = sum(c.near_one for c in compared)
    left_out = f" (left out: {reasons})" if excluded else ""
    return (
        f"{finding} {verdict} in this run: the residual tracks were the straighter ones at {straighter} of "
        f"{len(compared)} compared L2 strengths, and the residual OTS was at least {NEAR_ONE:g} and above "
        f"the plain one at {near_one} of {len(compared)}{left_out}."
    )


def _lss(outcomes: Sequence[Outcome]) -> str:
    return _listed([figure(outcome.after.lss.mean) for outcome in outcomes])


def _ots(outcomes: Sequence[Outcome]) -> str:
    return _listed([figure(o.after.ots.score, 3) if o.after.ots else "undefined" for o in outcomes])


def figure(value: float, digits: int = 2) -> str:
    """Write a number for a reader; NaN is "undefined", never a number."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
