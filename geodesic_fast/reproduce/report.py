# SPDX-License-Identifier: MIT
"""The report of a reproduction: one HTML file with the pictures inside, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch

from geodesic_fast import info
from geodesic_fast._pictures import THEMES
from geodesic_fast._report import columns, figure, page, table, write_whole
from geodesic_fast.reproduce import findings, measuring, pictures, published, results, summary
from geodesic_fast.reproduce.data import Images
from geodesic_fast.reproduce.experiments import EXPERIMENTS, MOMENTUM, Settings
from geodesic_fast.reproduce.findings import Finding
from geodesic_fast.reproduce.room import Room
from geodesic_fast.reproduce.summary import Network

CAPTIONS = {
    "scores": "LSS, OTS and test accuracy against gamma: means over stages and seeds, bars of one standard "
    "deviation over seeds; dashed and hollow: as published. The dotted lines are the LSS of random steps and "
    "of independent states.",
    "learning": "Training accuracy against LSS; the numbers are gammas.",
    "tracks": "Tracks of test images at the marked epochs, projected on their two main directions, at the "
    "largest gamma; below each the displacement interpolation between the same ends, which the exact optimal "
    "transport map of these images gives: the geodesic that the tracks would follow.",
    "training": "LSS before training and at the marked epochs, means over samples, stages and seeds.",
    "collapse": "Collapse layer by layer, at the least and the largest gamma: both figures fall along a "
    "geodesic that ends collapsed.",
    "points": "OTS of random subsets: it falls as points grow in number, and says nothing where an untrained "
    "network has it too.",
}


def write(room: Room, networks: Sequence[Network], kept: Mapping[str, dict[str, Any]], images: Images) -> str:
    """Write every file, and return what a terminal shows; `kept` is one network of each kind."""
    settings = room.settings
    judged, left_out = findings.judge(networks, images.classes)
    rows = results.paper_table(networks, settings)
    tracks = {kind: torch.stack(files["tracks"]) for kind, files in kept.items()}
    classes = measuring.pictured(images, settings)[1].cpu()
    drawn = {t.name: pictures.draw_all(networks, settings, tracks, classes, t) for t in THEMES}
    files = {f"{name}.png": png for name, png in drawn["light"].items()}
    files |= {f"{name}-dark.png": png for name, png in drawn["dark"].items()}
    files["results.json"] = results.as_json(networks, settings, judged, left_out).encode()
    files["results.csv"] = results.as_csv(networks).encode()
    files["table.md"] = results.as_markdown(rows).encode()
    files["report.html"] = as_html(networks, settings, judged, left_out, rows, drawn).encode()
    for name, content in files.items():
        write_whole(room.folder / name, content)
    told = [f"{finding.statement} {_told(finding)}" for finding in judged]
    lines = [*columns(rows, left=1), "", *told, "", f"Report: {(room.folder / 'report.html').resolve()}"]
    return "\n".join(lines)


def _told(finding: Finding) -> str:
    sure = "" if finding.confidence is None else f" (confidence {finding.confidence:.0%})"
    return f"{finding.verdict[0].upper()}{finding.verdict[1:]}{sure}."


def as_html(
    networks: Sequence[Network],
    settings: Settings,
    judged: Sequence[Finding],
    left_out: Mapping[float, str],
    rows: Sequence[Sequence[str]],
    drawn: Mapping[str, Mapping[str, bytes]],
) -> str:
    """Return the page; `drawn[theme][name]` are PNG files."""
    seeds = sorted({network["seed"] for network in networks})
    shown = "\n".join(
        f'<div class="{name}">{figure(caption, drawn["light"][name], drawn["dark"][name])}</div>'
        for name, caption in CAPTIONS.items()
    )
    verdicts = table(
        ("finding", "in this run", "confidence", "published by"),
        [
            (f.statement, f.verdict, "none" if f.confidence is None else f"{f.confidence:.0%}", f.source)
            for f in judged
        ],
    ).replace('class="wide"', 'class="wide statements"')
    evidence = "".join(
        f"<dt>{escape(f.statement)}</dt><dd>{escape(_told(f))} {escape(f.shows)}</dd>" for f in judged
    )
    excluded = "".join(
        f"<p>Gamma {g:g} is left out of the findings: {escape(why)}.</p>" for g, why in left_out.items()
    )
    body = f"""<style>.statements td {{ white-space: normal; text-align: left; min-width: 6rem; }}
.statements td:first-child {{ min-width: 11rem; }} .statements th {{ text-align: left; }}
.tracks picture {{ display: block; overflow-x: auto; }} .tracks img {{ min-width: 46rem; }}</style>
<h1>Does the paper's finding hold on {escape(EXPERIMENTS[settings.experiment].title)}?</h1>
<p class="soft">{escape(_what_ran(networks, settings))}</p>
<h2>Findings, and what became of them</h2>
{verdicts}{excluded}
<h2>Value beside value</h2>
{table(rows[0], rows[1:])}
<p class="soft">Means over stages and seeds ± standard deviation over seeds{_seeds_told(seeds)};
in brackets as published: {escape(published.SOURCE)}. {escape(_scales(networks))}</p>
<h2>Pictures</h2>
{shown}
<h2>Stage by stage and seed by seed</h2>
{_every_network(networks)}
<h2>What the findings rest on</h2>
<dl>{evidence}</dl>
<p>{escape(findings.RULE)}</p>
<h2>What was chosen, because the paper does not state it</h2>
{_choices(settings)}
<footer><p>{escape(_versions(networks, settings))}</p></footer>"""
    return page(f"geodesic_fast: {settings.experiment} reproduced", body)


def _seeds_told(seeds: Sequence[int]) -> str:
    return f" {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f" (one seed, {seeds[0]}: no spread)"


def _what_ran(networks: Sequence[Network], settings: Settings) -> str:
    widths = ", ".join(map(str, settings.widths))
    form = "perceptrons of width" if settings.patch == 0 else "convolutional networks with channels"
    return (
        f"{len(networks)} residual and plain {form} {widths}, {settings.depth} blocks a stage, trained on "
        f"{settings.data} for {settings.epochs} epochs. gamma is "
        + ("a term of the loss: gamma times the sum of squared weights."
           if settings.gamma_means == "loss"
           else "decoupled decay: each step multiplies the weights by 1 - learning rate times gamma.")
    )  # fmt: skip


def _scales(networks: Sequence[Network]) -> str:
    stages = networks[0]["after"]["stages"]
    sizes = ", ".join(f"({stage['m']}, {stage['d']})" for stage in stages)
    n = stages[0]["n"]
    return (
        f"LSS is 1 for straight lines, sqrt(n) = {n**0.5:.2f} for steps in random directions, n = {n} for "
        f"independent states. OTS and W2 efficiency are of (m, d) = {sizes}."
    )


def _every_network(networks: Sequence[Network]) -> str:
    head = ("network", "stage", "train", "test", "LSS", "95 % interval", "shuffled", "OTS", "W2 eff.",
            "bending", "detour")  # fmt: skip
    rows = []
    for network in networks:
        name = f"{network['kind']}, gamma {network['gamma']:g}, seed {network['seed']}"
        after = network["after"]
        for at, stage in enumerate(after["stages"], start=1):
            score, transport = stage["lss"], stage["transport"] or {}
            rows.append((
                name, str(at), f"{after['train_accuracy']:.1%}", f"{after['test_accuracy']:.1%}",
                f"{_figure(score['mean'])} ± {_figure(score['std'])}",
                f"{_figure(score['low'])} to {_figure(score['high'])}", _figure(score["shuffled"]),
                *(_figure(transport.get(key), 3) for key in ("score", "efficiency", "bending", "detour")),
            ))  # fmt: skip
    note = (
        '<p class="soft">LSS: mean ± standard deviation over samples, with the bootstrap interval of the '
        "mean; shuffled: the same states with their layers in random orders.</p>"
    )
    return f"<details><summary>All {len(rows)} rows</summary>{table(head, rows)}{note}</details>"


def _figure(value: Any, digits: int = 2) -> str:
    value = summary.number(value)
    return "undefined" if value != value else f"{value:.{digits}f}"


def _choices(settings: Settings) -> str:
    entries = {
        "Networks": "an embedding gives the first state; each block computes g(x) = W relu(batchnorm(x)), "
        + (f"{settings.convolutions} times with 3 x 3 convolutions, " if settings.patch else "with a bias, ")
        + "and x + g(x) if residual. A track is the states of one stage, flattened. "
        + ("" if not settings.patch else "The classifier reads the last state itself. "
           if settings.head == "linear" else
           "Batchnorm, relu and the mean over all places come before the classifier. ")
        + "Both kinds and all gammas of a seed start from the same weights and see the same batches.",
        "Training": f"SGD with momentum {MOMENTUM}, batches of {settings.batch}, learning rate "
        f"{settings.learning_rate:g} falling to 0 on a cosine, {settings.precision}. gamma acts on weight "
        "matrices and kernels, not on biases and batch norm."
        + (" Images are shifted by up to 4 pixels and mirrored." if settings.augment else ""),
        "Marked epochs": f"{', '.join(map(str, settings.marked_epochs))}: the published 1, 40, 80, 120, "
        "160 in proportion.",
        "Inferred": "five steps a track, from the one that the paper draws alone; gamma as a factor of "
        "the sum of squared weights, from the lecture's slide 24.",
    }  # fmt: skip
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries.items()) + "</dl>"


def _versions(networks: Sequence[Network], settings: Settings) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in info.versions().items())
    seconds = sum(network["seconds"] for network in networks)
    return (
        f"{listed}. Device {settings.device}. {seconds:.0f} s of training and measuring, over all networks."
    )
