# SPDX-License-Identifier: MIT
"""The optimal transport score between the first and the last states, or why there is none."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from geodesic_fast import ots, ots_curve, soft_ots
from geodesic_fast._command_line import Failure, UserError
from geodesic_fast.measure.source import Ends, Options


def score(ends: Ends, options: Options) -> dict[str, Any]:
    """Return the score and what proves it, as plain values."""
    first, last = (end.to(options.device) for end in ends.points())
    told: dict[str, Any] = {"points": len(first), "of": ends.seen, "d": first.shape[-1]}
    if options.blur is not None:
        told["soft"] = _soft(first, last, options.blur, options.backend)
    try:
        result = ots(first, last, time_budget=float(options.ots_seconds), verbose=sys.stderr.isatty())
    except (ValueError, MemoryError) as error:  # NaN in a state, or no room: the other numbers stand
        return {**told, "refused": str(error)}
    if options.ots_curve:
        told["curve"] = _curve(first, last)
    return {
        **told,
        "score": result.score,
        "score_lower": result.score_lower,
        "score_upper": result.score_upper,
        "certified": result.certified,
        "efficiency": result.efficiency,
        "map_cost": result.map_cost,
        "optimal_cost": result.optimal_cost,
    }


def _curve(first: Tensor, last: Tensor) -> list[dict[str, float]]:
    """The score of random subsets, by their number of points."""
    curve = ots_curve(first, last, verbose=sys.stderr.isatty())
    columns = (curve.sizes, curve.mean, curve.low, curve.high)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(("points", "mean", "low", "high"), row, strict=True)) for row in rows]


def curve_rows(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows of a table of the curve; a single subset has no interval."""
    rows: list[tuple[str, ...]] = [("points m", "mean OTS", "95 % from", "to")]
    for row in told["curve"]:
        figures = ("-" if math.isnan(row[key]) else f"{row[key]:.4f}" for key in ("mean", "low", "high"))
        rows.append((str(row["points"]), *figures))
    return rows


def _soft(first: Tensor, last: Tensor, blur: float, backend: str) -> dict[str, Any]:
    told: dict[str, Any] = {"blur": blur, "backend": backend}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # said in the sentence
            result = soft_ots(first, last, blur=blur, backend=backend)
    except ImportError as missing:
        raise UserError(f"--backend {backend}: {missing}") from None
    except (ValueError, MemoryError) as error:
        return {**told, "refused": str(error)}
    except RuntimeError as error:
        raise Failure(str(error)) from None
    return {**told, "backend": result.backend, "score": result.soft_score, "converged": result.converged}


def sentence(told: Mapping[str, Any]) -> str:
    """Say the scores in words."""
    return " ".join([_exact_sentence(told), *([_soft_sentence(told["soft"])] if "soft" in told else [])])


def _soft_sentence(soft: Mapping[str, Any]) -> str:
    name = f"Soft transport score at blur {soft['blur']:g}"
    if "refused" in soft:
        return f"{name}: none, for {soft['refused']}"
    doubt = "" if soft["converged"] else ", whose marginals are not met: take a larger --blur"
    return f"{name}: {soft['score']:.3f} ({soft['backend']}{doubt})."


def _exact_sentence(told: Mapping[str, Any]) -> str:
    some = "" if told["points"] == told["of"] else f" of {told['of']}, chosen at random"
    points = f"m = {told['points']} points{some}, in d = {told['d']} dimensions"
    if "refused" in told:
        return f"Optimal transport score of {points}: none, for {told['refused']}"
    cost = f"optimal cost {told['optimal_cost']:.4g} against {told['map_cost']:.4g} of the network's own map"
    if not told["certified"]:
        low, high = told["score_lower"], told["score_upper"]
        return (
            f"Optimal transport score between {low:.3f} and {high:.3f} on {points}, not proved further: "
            f"allow more --ots-seconds; {cost} at most."
        )
    return (
        f"Optimal transport score {told['score']:.3f} on {points}, proved exact: that share of them goes "
        f"where the optimal transport map sends them; {cost}, efficiency {told['efficiency']:.4f}."
    )
