# SPDX-License-Identifier: MIT
"""What `measure` tells: statistics of every field, as a table, as JSON, and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geodesic_fast import StepGeometry, StepProfile, TrackGeometry, info
from geodesic_fast._report import as_json, columns, page, table, write_whole
from geodesic_fast.measure import transport
from geodesic_fast.measure.source import Options, Source

STATISTICS = ("mean", "std", "min", "median", "max", "undefined")
MEANING = {
    "lss": "line-shape score: 1 straight, sqrt(n) random directions, n independent states",
    "lss_normalized": "0 straight, about 1 random directions, sqrt(n) + 1 independent states",
    "path_length": "sum of the step lengths",
    "chord": "distance from first to last state",
    "straightness": "chord / path length, 1 straight",
    "adjacent_cosine": "mean cosine of neighbouring steps, 1 straight",
    "turning_angle": "mean angle of neighbouring steps, radians, 0 straight",
    "step_cv": "spread of the step lengths over their mean, 0 even",
    "action": "steps times the sum of squared step lengths",
    "zero_steps": "steps of length zero",
}
_BARS = 40


def summarise(
    source: Source,
    options: Options,
    parts: Mapping[str, Sequence[TrackGeometry]],
    scores: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Return everything that is told, as plain values."""
    groups = []
    for name, pieces in parts.items():
        fields = [torch.cat([field.reshape(-1) for field in column]) for column in zip(*pieces, strict=True)]
        named = dict(zip(TrackGeometry._fields, fields, strict=True))
        steps = len(source.layers[name])
        groups.append(
            {
                "layers": name,
                "steps": steps,
                "tracks": len(fields[0]),
                "controls": _controls(steps, source.shuffled.get(name)),
                "fields": {field: _statistics(values) for field, values in named.items()},
                "lss_histogram": _histogram(named["lss"]),
                "profile": _profile(source.layers[name], StepProfile.joined(source.profiles[name])),
                "ots": scores.get(name),
            }
        )
    return {
        "source": source.title,
        "about": source.about,
        "zero_step": options.zero_step,
        "device": str(options.device),
        "seed": options.seed,
        "groups": groups,
        "versions": info.versions(),
        "seconds": round(seconds, 3),
    }


def _controls(steps: int, shuffled: Sequence[Tensor] | None) -> dict[str, float | None]:
    """The line-shape score of tracks that follow no path."""
    mean = None if shuffled is None else _statistics(torch.cat(list(shuffled)))["mean"]
    return {"random_steps": steps**0.5, "independent_states": float(steps), "layers_shuffled": mean}


def _profile(layers: Sequence[str], profile: StepProfile) -> list[dict[str, Any]]:
    """The means of each step, one row per layer; the last step turns into none."""
    columns = {name: values.tolist() for name, values in zip(StepGeometry._fields, profile.mean, strict=True)}
    columns["turning_cosine"].append(math.nan)
    return [
        {"layer": layer, **{name: column[at] for name, column in columns.items()}}
        for at, layer in enumerate(layers)
    ]


def _controls_sentence(group: Mapping[str, Any]) -> str:
    controls = group["controls"]
    shuffled = controls["layers_shuffled"]
    told = "" if shuffled is None else f", and these states in other orders of the layers {_figure(shuffled)}"
    return (
        f"Line-shape scores to compare with, at n = {group['steps']}: 1 of straight lines, "
        f"sqrt(n) = {_figure(controls['random_steps'])} of steps in random directions, "
        f"n = {group['steps']} of independent states{told}."
    )


def _profile_rows(group: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        ("step to layer", *StepGeometry._fields),
        *(tuple(v if isinstance(v, str) else _figure(v) for v in row.values()) for row in group["profile"]),
    ]


def _statistics(values: Tensor) -> dict[str, float]:
    values = values.double()
    defined = values[~values.isnan()]
    if not len(defined):
        return {**dict.fromkeys(STATISTICS[:-1], math.nan), "undefined": len(values)}
    return {
        "mean": defined.mean().item(),
        "std": defined.std(correction=0).item(),
        "min": defined.min().item(),
        "median": _median(defined),
        "max": defined.max().item(),
        "undefined": len(values) - len(defined),
    }


def _median(values: Tensor) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered = values.sort().values
    low, high = ordered[(len(ordered) - 1) // 2].item(), ordered[len(ordered) // 2].item()
    return low if low == high else (low + high) / 2  # two infinities have no mean


def _histogram(lss: Tensor) -> dict[str, Any]:
    values = lss[lss.isfinite()].double()
    if not len(values):
        return {"from": math.nan, "to": math.nan, "counts": [], "above": 0}
    low, high = (
        values.min().item(),
        values.quantile(0.995).item() if len(values) < 1 << 24 else values.max().item(),
    )
    high = max(high, low + 1e-6)
    counts = torch.histc(values[values <= high], _BARS, low, high)
    counts_above = len(lss) - int(lss.isnan().sum()) - int(counts.sum())
    return {"from": low, "to": high, "counts": [int(count) for count in counts], "above": counts_above}


def as_text(found: Mapping[str, Any]) -> str:
    """Return the tables for a terminal."""
    lines = [f"{found['source']}: {found['about']}"]
    for group in found["groups"]:
        lines += ["", f"{group['layers']}: {group['tracks']} tracks of {group['steps']} steps"]
        rows = [("field", *STATISTICS), *_rows(group)]
        lines += [*columns(rows, left=1), "", _controls_sentence(group)]
        lines += ["", "Means over tracks, step by step:", *columns(_profile_rows(group), left=1)]
        if group["ots"] is not None:
            lines += ["", transport.sentence(group["ots"])]
            if "curve" in group["ots"]:
                lines += columns(transport.curve_rows(group["ots"]))
    return "\n".join(lines)


def _rows(group: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(name, *(_figure(value[s]) for s in STATISTICS)) for name, value in group["fields"].items()]


def _figure(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def write(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write results.json and report.html."""
    write_whole(folder / "results.json", (as_json(found) + "\n").encode())
    write_whole(folder / "report.html", as_html(found).encode())
    return folder


def as_html(found: Mapping[str, Any]) -> str:
    """Return the page."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    body = f"""<h1>How straight are the tracks of {escape(found["source"])}?</h1>
<p class="soft">{escape(found["about"])}. Steps of length zero: {escape(found["zero_step"])}.</p>
{"".join(map(_section, found["groups"]))}
<footer><p>{escape(versions)}. Device {escape(found["device"])}. {found["seconds"]:.1f} s.</p></footer>"""
    return page(f"geodesic_fast: {found['source']}", body)


def _section(group: Mapping[str, Any]) -> str:
    meanings = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in MEANING.items())
    scored, curve = "", ""
    if group["ots"] is not None:
        scored = f"<p>{escape(transport.sentence(group['ots']))}</p>"
        if "curve" in group["ots"]:
            head, *rows = transport.curve_rows(group["ots"])
            curve = f"<h3>OTS of random subsets</h3>{table(head, rows)}"
    mean, steps = group["fields"]["lss"]["mean"], group["steps"]
    first, *steps_rows = _profile_rows(group)
    return f"""<h2>{escape(group["layers"])}</h2>
<div class="finding"><p>Mean line-shape score {_figure(mean)} over {group["tracks"]} tracks of {steps} steps.
{escape(_controls_sentence(group))}</p>{scored}</div>
{_picture(group["lss_histogram"], steps**0.5)}
{table(("field", *STATISTICS), _rows(group), MEANING)}
<h3>Step by step, means over tracks</h3>
{table(first, steps_rows)}{curve}
<details><summary>What the fields are</summary><dl>{meanings}</dl></details>
"""


def _picture(histogram: Mapping[str, Any], random: float) -> str:
    counts = histogram["counts"]
    if not counts:
        return "<p>No track has a defined score.</p>"
    width, height, tallest = 16, 160, max(counts)
    bars = "".join(
        f'<rect x="{k * width}" y="{height - count / tallest * height:.1f}" width="{width - 2}" '
        f'height="{count / tallest * height:.1f}"><title>{count}</title></rect>'
        for k, count in enumerate(counts)
    )
    low, high = histogram["from"], histogram["to"]
    mark, marked = "", ""
    if low <= random <= high:
        at = (random - low) / (high - low) * width * len(counts)
        mark = f'<path d="M{at:.1f} 0V{height}" stroke="currentColor" stroke-dasharray="4 4"/>'
        marked = f" The dashed line is at {random:.3g}, steps in random directions."
    above = f" {histogram['above']} tracks lie above and are not drawn." if histogram["above"] else ""
    axis = "".join(f"<span>{_figure(value)}</span>" for value in (low, (low + high) / 2, high))
    return f"""<figure>
<svg viewBox="0 0 {width * len(counts)} {height}" role="img" fill="currentColor" fill-opacity="0.6"
     preserveAspectRatio="none" style="width:100%;max-height:12rem">{bars}{mark}</svg>
<div class="soft" style="display:flex;justify-content:space-between">{axis}</div>
<figcaption>How many tracks have which line-shape score; at most {tallest} in a bar.{marked}{above}
</figcaption>
</figure>"""
