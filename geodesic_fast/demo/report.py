# SPDX-License-Identifier: MIT
"""The report: one HTML file with the pictures inside, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from geodesic_fast import info
from geodesic_fast._report import figure, page, table
from geodesic_fast.demo import finding, results, training
from geodesic_fast.demo.finding import Finding
from geodesic_fast.demo.training import Outcome, Settings

CAPTIONS = {
    "tracks": "Data tracks x⁽⁰⁾ → … → x⁽ⁿ⁾ of the test images, projected on the two main directions "
    "(PCA over the states of all layers, fitted for each panel). After training: the network with the "
    "strongest L2. "
    "What two directions cannot show is missing here; the scores are computed in full width.",
    "scores": "Both scores after training against the L2 strength. Bars: one standard deviation over the "
    "test samples. The dotted line is what steps in random directions give in high dimension; steps that "
    "turn back on each other score above it.",
    "deviation": "Which pairs of layers bend against each other: one minus the cosine between their steps, "
    "averaged over the test samples; strongest L2. Blue: the two steps point the same way, white: they are "
    "orthogonal, red: they are opposite. All blue is a straight line.",
    "margins": "How far the track of a sample keeps from the nearest track of another class, at the layer "
    "where the two come nearest: the margin by which the network tells them apart all the way. Strongest L2. "
    "Higher and further right is more robust.",
    "training": "LSS of the test samples, before training and after every epoch: the mean, and a band that "
    "holds four out of five samples.",
}


def as_html(
    settings: Settings,
    outcomes: Sequence[Outcome],
    judged: Finding,
    pictures: Mapping[str, Mapping[str, bytes]],
    seconds: float,
) -> str:
    """Return the page; `pictures[theme][name]` are PNG files."""
    figures = "\n".join(
        figure(CAPTIONS[name], pictures["light"][name], pictures["dark"][name]) for name in CAPTIONS
    )
    count = outcomes[0].tracks_after.shape[1]
    chosen = len(training.choose_samples(count, settings))
    strengths = ", ".join(f"{l2:g}" for l2 in settings.l2)
    body = f"""<h1>How straight do the layers go?</h1>
<p class="soft">{settings.depth} layers of width {settings.width}, residual and plain, trained on handwritten
digits with {settings.epochs} epochs of SGD. L2 regularisation: {strengths}. Seed {settings.seed}.</p>
<div class="finding" data-verdict="{escape(judged.verdict)}">
<p>{escape(judged.shows)}</p>
<p>{escape(judged.conclusion)}</p>
</div>
<h2>Scores</h2>
{_table(outcomes)}
<p class="soft">Accuracy on {count} test images that the networks never saw and
on all training images. LSS: mean ± standard deviation over the test samples{_undefined(outcomes)}. OTS and
W2 efficiency: of the map from the first to the last state of {chosen} test samples.
{escape(results.to_compare_with(outcomes))}
One run with one seed: the spread is over samples, not over seeds.</p>
<h2>Pictures</h2>
{figures}
<h2>What was measured, and how it was decided</h2>
{_definitions(settings)}
<p>{escape(finding.RULE)}</p>
<footer><p>{escape(_versions(settings, seconds))}</p></footer>"""
    return page("geodesic_fast: digits demo", body)


def _table(outcomes: Sequence[Outcome]) -> str:
    return table(results.COLUMNS, results.table(outcomes))


def _undefined(outcomes: Sequence[Outcome]) -> str:
    counts = [
        f"{outcome.after.lss.undefined} of the {outcome.kind} network with L2 {outcome.l2:g}"
        for outcome in outcomes
        if outcome.after.lss.undefined
    ]
    return f", leaving out samples whose score is undefined ({', '.join(counts)})" if counts else ""


def _definitions(settings: Settings) -> str:
    entries = {
        "Line-shape score (LSS)": "of one sample's track: the number of steps over the length of the sum of "
        "unit steps. 1 is a straight line, lower is straighter.",
        "Optimal transport score (OTS)": "the share of samples that the network sends where the exact "
        "optimal transport map between its first and last states sends them. 1 means that the network's own "
        "map is an optimal transport map.",
        "W2 efficiency": "the optimal transport cost over the cost of the network's own map, at most 1.",
        "Margin": "the distance of a sample's track from the nearest track of another class, at the layer "
        "where the two come nearest, over the root mean squared distance of two first states. The table "
        "gives the median over the test samples.",
        "Networks": "a linear embedding of the 64 pixels gives x⁽⁰⁾; each layer then computes "
        "g(x) = W relu(batchnorm(x)) + b, and x + g(x) if residual; a linear classifier reads x⁽ⁿ⁾. "
        "Both kinds start from the same weights and see the same batches.",
        "Training": f"SGD with momentum {training.MOMENTUM}, batches of {training.BATCH}, learning rate "
        f"{settings.learning_rate:g} falling to 0 on a cosine. L2 regularisation is the weight decay of SGD "
        "on every parameter, biases and batch norm included: strength λ adds λ times the parameter to its "
        "gradient, as the loss term λ/2 · |θ|² would.",
    }
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries.items()) + "</dl>"


def _versions(settings: Settings, seconds: float) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in info.versions().items())
    return f"{listed}. Device {settings.device}. {seconds:.0f} s."
