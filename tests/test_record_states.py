# SPDX-License-Identifier: MIT
"""Which tensor of a layer's output is its state, which axis holds the features, and where a space ends."""

import warnings

import pytest
import torch
from assert_accurate import assert_streamed
from torch import nn

from geodesic_fast import lss
from geodesic_fast.recording import record, watch


class Giving(nn.Module):
    """Blocks whose output is made by a function of the input and the new state."""

    def __init__(self, give, width: int = 8, depth: int = 3):
        super().__init__()
        self.blocks = nn.ModuleList(Given(give, width) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            block(x)
            x = block.state
        return x


class Given(nn.Module):
    def __init__(self, give, width):
        super().__init__()
        self.linear, self.give = nn.Linear(width, width), give

    def forward(self, x):
        self.state = x + self.linear(x).tanh()
        return self.give(x, self.state)


def states(net, x):
    yield x
    for block in net.blocks:
        x = x + block.linear(x).tanh()
        yield x


@pytest.mark.parametrize(
    ("give", "choice", "told"),
    [
        (lambda x, y: (torch.rand(2, 2, 5, 5), y), 1, "index 1"),
        (lambda x, y: {"loss": torch.rand(2), "state": y}, "state", "'state'"),
        (lambda x, y: {"loss": torch.rand(()), "state": y}, "state", None),
        (lambda x, y: (y, torch.rand(2, 2, 5, 5)), 0, None),
        (lambda x, y: (y.long(), [y]), lambda output: output[1][0], None),
        (lambda x, y: {"weights": y.clone(), "hidden_states": y}, "hidden_states", None),
    ],
)
def test_the_state_is_the_one_of_the_inputs_shape(give, choice, told):
    net, x = Giving(give), torch.randn(2, 5, 8)
    want = lss(list(states(net, x)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(net) as w, record(net) as stored:
            net(x)
    assert_streamed(w.geometry.lss, want)
    assert torch.equal(lss(stored.tracks), want)
    said = [str(warning.message) for warning in said]
    assert all(told is not None and told in sentence for sentence in said)
    assert bool(said) == (told is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with watch(net, state=choice) as w:
            net(x)
    assert_streamed(w.geometry.lss, want)


def test_a_residual_that_the_next_block_adds_is_asked_for():
    class Fused(nn.Module):
        """The addition is left to the next block's norm, as inference engines do."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, hidden_states, residual=None):
            residual = hidden_states if residual is None else hidden_states + residual
            return self.linear(residual).tanh(), residual

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Fused() for _ in range(4))

        def forward(self, x):
            residual = None
            for layer in self.layers:
                x, residual = layer(x, residual)
            return x + residual

    net, x = Model(), torch.randn(3, 5, 8)
    refused = pytest.raises(ValueError, match=r"got 2 that could be .*output\[0\] \+ output\[1\]")
    with refused, watch(net):
        net(x)
    track, state = [x], x
    for layer in net.layers:
        state = state + layer.linear(state).tanh()
        track.append(state)
    with watch(net, state=lambda output: output[0] + output[1]) as w:
        net(x)
    torch.testing.assert_close(w.geometry.lss, lss(track))


def test_two_streams_are_told_apart_by_the_input_or_asked_for():
    class Joint(nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.image = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, hidden_states, encoder_hidden_states):
            y = encoder_hidden_states + self.text(encoder_hidden_states).tanh()
            return y, hidden_states + self.image(hidden_states).tanh()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer_blocks = nn.ModuleList(Joint() for _ in range(3))

        def forward(self, image, text):
            self.images, self.texts = [image], [text]
            for block in self.transformer_blocks:
                text, image = block(hidden_states=self.between(image), encoder_hidden_states=text)
                self.images.append(image)
                self.texts.append(text)
            return image

        def between(self, image):
            return image

    net = Model()
    with pytest.warns(RuntimeWarning, match="pass state=1"), watch(net) as w:
        net(torch.randn(2, 16, 8), torch.randn(2, 5, 8))
    assert_streamed(w.geometry.lss, lss(net.images))
    with pytest.raises(ValueError, match="state must say which"), watch(net):
        net(torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    for tokens in (5, 7):  # of the text beside 5 of the image
        for state, choose in ((0, lambda: net.texts), (1, lambda: net.images)):
            for choice in (state, lambda output, state=state: output[state]):
                with watch(net, state=choice) as w, record(net, state=choice) as stored:
                    net(torch.randn(2, 5, 8), torch.randn(2, tokens, 8))
                assert_streamed(w.geometry.lss, lss(choose()))
                assert all(map(torch.equal, stored.tracks, choose()))
    net.between = lambda image: image + 0
    with pytest.raises(ValueError, match=r"got 2 of its shape .* pass inputs=False"), watch(net, state=1):
        net(torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    with watch(net, state=1, inputs=False) as w:
        net(torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    assert_streamed(w.geometry.lss, lss(net.images[1:]))
    with pytest.raises(ValueError, match="got 2 of its shape"), watch(net, "*.0", state=1):
        net(torch.randn(2, 5, 8), torch.randn(2, 5, 8))


def test_a_choice_that_is_not_there_is_refused():
    net = Giving(lambda x, y: (y, y.clone()))
    for state in (5, "hidden", lambda output: output.nothing):
        with pytest.raises(ValueError, match="state must choose a tensor"), record(net, state=state):
            net(torch.randn(2, 5, 8))
    with pytest.raises(TypeError, match="state must be None, an index, a name or a function"):
        record(net, state=1.5)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Last(nn.Module):
    """Works on the channels of a map as on features: permutes, maps, permutes back."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(self.norm(self.depthwise(x).movedim(1, -1))).movedim(-1, 1)


AXES = {
    "convolutions in two dimensions": (lambda: Residual(nn.Conv2d(8, 8, 3, padding=1)), (2, 8, 5, 5), (2,)),
    "convolutions in one": (lambda: Residual(nn.Conv1d(8, 8, 3, padding=1)), (2, 8, 9), (2,)),
    "convolutions in one, as long as wide": (
        lambda: Residual(nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8)), (2, 8, 8), (2,)),
    "convolutions in three": (lambda: Residual(nn.Conv3d(8, 8, 3, padding=1)), (2, 8, 3, 4, 5), (2,)),
    "square maps": (lambda: Residual(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)), (2, 8, 8, 8), (2,)),
    "permuting blocks": (lambda: Last(8), (2, 8, 5, 5), (2,)),
    "permuting blocks on wide maps": (lambda: Last(8), (2, 8, 5, 32), (2,)),
    "maps with features last": (lambda: Residual(nn.LayerNorm(8), nn.Linear(8, 8)), (2, 5, 4, 8), (2, 5, 4)),
    "streams": (lambda: Residual(nn.Linear(8, 8)), (3, 2, 5, 8), (3, 2, 5)),
    "tokens": (lambda: Residual(nn.Linear(8, 8)), (2, 5, 8), (2, 5)),
    "tokens that are convolved": (
        lambda: Residual(Turned(nn.Conv1d(8, 8, 3, padding=1)), nn.LayerNorm(8), nn.Linear(8, 8)),
        (2, 5, 8), (2, 5)),
    "vectors": (lambda: Residual(nn.Linear(8, 8)), (2, 8), (2,)),
}  # fmt: skip


class Turned(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x.mT).mT


@pytest.mark.parametrize("kind", list(AXES))
def test_the_axis_of_the_features_is_that_of_the_layers(kind):
    make, shape, batch = AXES[kind]
    net, x = nn.Sequential(*(make() for _ in range(3))), torch.randn(shape)
    with watch(net, "*") as w, record(net, "*") as stored:
        net(x)
    assert stored.tracks[0].shape[:-1] == batch
    assert torch.equal(stored.tracks[0], x.reshape(*batch, -1))
    torch.testing.assert_close(w.geometry.lss, lss(stored.tracks), rtol=1e-6, atol=0)


def test_axes_that_could_be_either_are_asked_for():
    net, x = nn.Sequential(*(Last(8) for _ in range(3))), torch.randn(2, 8, 5, 8)
    with pytest.raises(ValueError, match="flatten must say which axes"), watch(net, "*"):
        net(x)
    for flatten, batch in (("maps", (2,)), ("never", (2, 8, 5)), ("samples", (2,))):
        with watch(net, "*", flatten=flatten) as w:
            net(x)
        assert w.geometry.lss.shape == batch
    silent = nn.Sequential(nn.Identity(), nn.Identity())
    with pytest.raises(ValueError, match="flatten must say which axes"), watch(silent, "*"):
        silent(x)


def test_maps_of_equal_size_and_different_shape_are_two_spaces():
    class Squeeze(nn.Module):
        def forward(self, x):
            return nn.functional.pixel_unshuffle(x, 2)

    net = nn.Sequential(
        Residual(nn.Conv2d(4, 4, 1)), Residual(nn.Conv2d(4, 4, 1)), Squeeze(), Residual(nn.Conv2d(16, 16, 1))
    )
    x = torch.randn(2, 4, 8, 8)
    with watch(net, "*") as w:
        net(x)
    assert [group.names for group in w.groups] == [["input of 0", "0", "1"], ["2", "3"]]


def test_each_stage_has_its_own_input():
    class Stage(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.down = nn.Conv2d(before, after, 2, 2)
            self.layers = nn.ModuleList(
                Residual(nn.Conv2d(after, after, 1), nn.BatchNorm2d(after)) for _ in range(2)
            )

        def forward(self, x):
            self.given = x = self.down(x)
            for layer in self.layers:
                x = layer(x)
            return x

    net = nn.Sequential(Stage(3, 4), Stage(4, 6), Stage(6, 6)).eval()
    for layers in (None, "*.layers.*"):
        with watch(net, layers) as w, record(net, layers) as stored:
            net(torch.randn(2, 3, 32, 32))
        assert [group.names for group in w.groups] == [
            [f"input of {i}.layers.0", f"{i}.layers.0", f"{i}.layers.1"] for i in range(3)
        ]
        for stage, group in zip(net, stored.groups, strict=True):
            assert torch.equal(group.tracks[0], stage.given.flatten(1))


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1), slice(1, None)])
def test_writes_through_data_are_refused_or_copied(copy, rows):
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Residual(nn.Linear(8, 8)) for _ in range(4))
            self.kept = []

        def forward(self, x):
            self.kept = [x.clone()]
            for block in self.blocks:
                x = block(x)
                self.kept.append(x.clone())
                x.data[rows] *= 2
            return x

    net, x = Written(), torch.randn(3, 16, 8)
    if copy:
        with watch(net, copy=True) as w:
            net(x)
        assert_streamed(w.geometry.lss, lss(net.kept))
    else:
        with pytest.raises(RuntimeError, match="changed in place: pass copy=True"), watch(net):
            net(x)
