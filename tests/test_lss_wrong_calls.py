# SPDX-License-Identifier: MIT
"""Every wrong call of a per-track metric gets one sentence that says what, expected, got, remedy."""

import pytest
import torch

from geodesic_fast import lss, track_geometry

X = torch.zeros(3, 4, 5)
SENTENCES = [
    (
        {"layers": X},
        {},
        TypeError,
        "tracks must be a torch.Tensor with a layer axis, or a list or tuple of one",
    ),
    (None, {}, TypeError, "got NoneType: pass a tensor or a NumPy array"),
    ([X[0], [0.0]], {}, TypeError, r"tracks\[1\] must be a torch.Tensor, got list"),
    (X.long(), {}, TypeError, "must be float16, bfloat16, float32 or float64, got torch.int64: convert"),
    (X.to_sparse(), {}, TypeError, "must be a dense tensor"),
    (torch.zeros(5), {}, ValueError, r"must have a layer axis and a feature axis, got shape \(5,\)"),
    (
        X[:1],
        {},
        ValueError,
        r"at least 2 layers along dim 0, got shape \(1, 4, 5\): a track needs a first and a",
    ),
    (X, {"dim": 2}, ValueError, "features come last"),
    (X, {"dim": -1}, ValueError, "features come last"),
    (X, {"dim": 3}, ValueError, "there is no such axis"),
    (X, {"dim": "layers"}, TypeError, "dim must be an int, got str"),
    (torch.zeros(3, 4, 0), {}, ValueError, r"at least 1 feature, got shape \(3, 4, 0\)"),
    ([X[0]], {}, ValueError, "at least 2 layers, got a list of 1"),
    ([], {}, ValueError, "at least 2 layers, got a list of 0"),
    ([X[0], X[1]], {"dim": 1}, ValueError, "dim must be 0 for a list"),
    ([X[0]] * 1025, {}, ValueError, "at most 1024 layers, got 1025: stack"),
    ([X[0], X[0, :2]], {}, ValueError, r"equal shape: tracks\[0\] has \(4, 5\), tracks\[1\] has \(2, 5\)"),
    ([X[0], X[0, :, :2]], {}, ValueError, "a track stays in one space"),
    ([X[0], X[1].double()], {}, ValueError, "equal dtype"),
    ([X[0], X[1].to("meta")], {}, ValueError, "equal device"),
    ([torch.tensor(1.0)] * 2, {}, ValueError, "must have a feature axis"),
    (X, {"zero_step": "ignore"}, ValueError, "zero_step must be one of 'skip', 'keep', 'propagate', 'raise'"),
]


@pytest.mark.parametrize(("tracks", "options", "error", "sentence"), SENTENCES)
@pytest.mark.parametrize("metric", [lss, track_geometry])
def test_says_what_is_wrong(metric, tracks, options, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        metric(tracks, **options)
    assert str(caught.value).endswith(".")


def test_empty_and_single_shapes_are_no_mistakes():
    assert lss(torch.zeros(3, 0, 5)).shape == (0,)
    assert lss(torch.randn(3, 5)).shape == ()
    assert lss([torch.randn(5), torch.randn(5)]).item() == 1
