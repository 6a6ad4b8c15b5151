# SPDX-License-Identifier: MIT
"""The demo's decision rule: each verdict follows from figures that call for it."""

import re

import pytest
import torch

from geodesic_fast.demo import finding, measuring, report, training

SETTINGS = training.Settings(
    width=4, depth=3, epochs=0, seed=0, l2=(0.01,), learning_rate=0.05, samples=0, device="cpu"
)


def outcome(kind, l2, lss=1.5, ots=1.0, test_accuracy=0.97, std=0.1, steps=3):
    """Make the outcome of a network that scored so, to put before the decision rule."""
    line = measuring.LineShape(mean=lss, std=std, samples=100, undefined=0)
    moved = measuring.Transport(ots, 0.9, 1.0, 0.9, True, 100) if ots is not None else None
    measured = measuring.Measurement(1.0, test_accuracy, line, moved, measuring.Margin(0.5, 0.1))
    tracks = torch.zeros(steps + 1, 100, 4)
    history = (training.Epoch(0, None, test_accuracy, line),)
    return training.Outcome(kind, l2, measured, measured, history, (), tracks, tracks, 0.0)


HELD = [outcome("residual", 0.0, 1.2), outcome("plain", 0.0, 5.0, 0.1)]
CURVED = [outcome("residual", 0.01, 5.0), outcome("plain", 0.01, 1.2, 0.1)]
OFF_OPTIMAL = [outcome("residual", 0.01, 1.2, 0.84), outcome("plain", 0.01, 5.0, 0.1)]
BOTH_OPTIMAL = [outcome("residual", 0.01, 1.2, 1.0), outcome("plain", 0.01, 5.0, 1.0)]
EQUAL = [outcome("residual", 0.01, 1.5), outcome("plain", 0.01, 1.51, 0.1)]
UNTRAINED = [outcome("residual", 0.02), outcome("plain", 0.02, 5.0, 0.1, test_accuracy=0.3)]
ONE_MORE = [outcome("residual", 0.03), outcome("plain", 0.03, 5.0, 0.1, test_accuracy=0.3)]
DIVERGED = [outcome("residual", 0.02, float("nan"), None), outcome("plain", 0.02, 5.0, 0.1)]
ONE_STEP = [outcome("residual", 0.02, 1.0, steps=1), outcome("plain", 0.02, 1.0, 0.1, steps=1)]


@pytest.mark.parametrize(
    ("outcomes", "verdict", "words"),
    [
        (HELD, "held", "at 1 of 1 compared L2 strengths"),
        (CURVED, "did not hold", "straighter ones at 0 of 1 compared"),
        (OFF_OPTIMAL, "did not hold", "above the plain one at 0 of 1"),
        (BOTH_OPTIMAL, "did not hold", "above the plain one at 0 of 1"),
        (EQUAL, "did not hold", "straighter ones at 0 of 1 compared"),
        (HELD + CURVED, "held in part", "straighter ones at 1 of 2 compared"),
        (HELD + UNTRAINED, "held", "left out: L2 0.02, where the plain network stayed below 80%"),
        (UNTRAINED, "not tested", "the plain network stayed below 80% test accuracy"),
        (DIVERGED, "not tested", "a score of the residual network is undefined"),
        (UNTRAINED + ONE_MORE, "not tested", "L2 0.02 and 0.03, where the plain network stayed"),
        (ONE_STEP, "not tested", "a track of one step is always straight"),
    ],
)
def test_the_verdict_follows_the_figures(outcomes, verdict, words):
    judged = finding.judge(outcomes)
    assert judged.verdict == verdict
    assert f" {verdict} in this run" in judged.conclusion
    assert words in judged.conclusion
    for sentence in (judged.shows, judged.conclusion):
        assert sentence.endswith(".")
        assert not re.search(r"\. [A-Z]", sentence), "one sentence each"


def test_the_report_of_a_failed_finding_says_so():
    judged = finding.judge(CURVED)
    nothing = dict.fromkeys(report.CAPTIONS, b"")
    page = report.as_html(SETTINGS, CURVED, judged, {"light": nothing, "dark": nothing}, 1.0)
    assert 'data-verdict="did not hold"' in page
    assert "did not hold in this run" in page
    assert "held in this run" not in page
