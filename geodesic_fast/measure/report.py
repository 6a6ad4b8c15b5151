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

from geodesic_fast import TrackGeometry, info
from geodesic_fast._report import as_json, columns, page, table, write_whole
from geodesic_fast.measure import transport
from geodesic_fast.measure.source import Options, Source

STATISTICS = ("mean", "std", "min", "median", "max", "undefined")
MEANING = {
    "lss": "line-shape score: 1 straight, sqrt(n) random directions",
    "lss_normalized": "0 straight, about 1 random",
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
        groups.append(
            {
                "layers": name,
                "steps": source.steps[name],
                "tracks": len(fields[0]),
                "fields": {field: _statistics(values) for field, values in named.items()},
                "lss_histogram": _histogram(named["lss"]),
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
        lines += columns(rows, left=1)
        if group["ots"] is not None:
            lines += ["", transport.sentence(group["ots"])]
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
    scored = "" if group["ots"] is None else f"<p>{escape(transport.sentence(group['ots']))}</p>"
    mean, steps = group["fields"]["lss"]["mean"], group["steps"]
    return f"""<h2>{escape(group["layers"])}</h2>
<div class="finding"><p>Mean line-shape score {_figure(mean)} over {group["tracks"]} tracks of {steps} steps:
1 would be straight lines, {steps**0.5:.3g} steps in random directions.</p>{scored}</div>
{_picture(group["lss_histogram"], steps**0.5)}
{table(("field", *STATISTICS), _rows(group), MEANING)}
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
