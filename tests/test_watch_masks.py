# SPDX-License-Identifier: MIT
"""Which tracks count: masks of every form, on networks and on real models whose layers see other shapes."""

import pytest
import torch
from assert_accurate import assert_streamed
from torch import nn

from geodesic_fast import lss
from geodesic_fast.recording import record, watch


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x, attention_mask=None):
        return x + self.linear(x).tanh()


class Net(nn.Module):
    """A network that takes masks of several names; `inner` makes of them what its layers get."""

    def __init__(self, inner=None):
        super().__init__()
        self.blocks, self.inner = nn.ModuleList(Block() for _ in range(4)), inner

    def forward(self, x, attention_mask=None, pixel_mask=None, src_key_padding_mask=None, input_ids=None):
        mask = self.inner(attention_mask) if self.inner else None
        for block in self.blocks:
            x = block(x, attention_mask=mask)
        return x


@pytest.fixture
def real():
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 5:] = False
    return mask


@pytest.fixture
def x():
    return torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(0))


def every(net, x, layers="blocks.*", **arguments):
    with record(net, layers) as stored:
        net(x, **arguments)
    return lss(stored.tracks)


def forms(real):
    """A padding mask in the forms in which models take it."""
    lowest = torch.finfo(torch.float32).min
    queries = real[:, None, None, :].expand(3, 1, 9, 9)
    causal = queries & torch.ones(9, 9, dtype=torch.bool).tril()
    yield from (real, real.long(), real.float(), real.double())
    yield torch.where(real, 0.0, -1e9)
    for pairs in (real[:, None, None, :], queries, causal, causal.expand(3, 4, 9, 9)[:, :1]):
        yield pairs
        yield pairs.long()
        yield torch.where(pairs, 0.0, lowest)
    yield queries[:, 0]
    yield ~causal  # true where a query must not look
    yield {
        "full_attention": causal,
        "sliding_attention": causal & torch.ones(9, 9, dtype=torch.bool).triu(-3),
    }


def test_every_form_of_a_mask_is_read(x, real):
    net = Net()
    want = every(net, x)[real]
    for form in forms(real):
        with watch(net) as w:
            net(x, attention_mask=form)
        assert_streamed(w.geometry.lss, want)
        inside = Net(inner=lambda mask, form=form: form)
        with watch(inside) as w:
            inside(x)
        assert_streamed(w.geometry.lss, every(inside, x)[real])


def test_the_callers_mask_wins(x, real):
    other = torch.ones(3, 9)
    other[2, 1:] = 0
    net = Net(inner=lambda mask: other[:, None, None, :])
    with watch(net) as w:
        net(x, attention_mask=real)
    assert_streamed(w.geometry.lss, every(net, x)[real])
    with watch(net, mask=other) as w:
        net(x, attention_mask=real)
    assert_streamed(w.geometry.lss, every(net, x)[other.bool()])


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        (
            (9, 9),
            lambda: torch.ones(9, 9, dtype=torch.bool).tril(),
        ),  # which token sees which, batch == tokens
        ((9, 9), lambda: (torch.arange(9) < torch.arange(1, 10)[:, None] // 2 + 5).long()),  # or padding
        ((9, 9), lambda: torch.zeros(9, 9)),  # added to scores, or nothing counts
        ((3, 9), lambda: torch.ones(9, 9, dtype=torch.bool).tril()),
        ((3, 9), lambda: torch.zeros(3, 9)),
        ((3, 9), lambda: torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])),
        ((3, 9), lambda: torch.full((3, 9), 0.5)),
        ((3, 9), lambda: torch.tensor([[1, 2, 0] * 3] * 3)),
        ((3, 9), lambda: torch.arange(12) < torch.tensor([[7], [12], [9]])),  # longer, and no cache
        ((3, 9), lambda: torch.ones(3, 2, 9, 9).tril()),
    ],
)
def test_what_cannot_be_told_apart_is_asked_for(shape, form):
    net, x = Net(), torch.randn(*shape, 8)
    with pytest.warns(RuntimeWarning, match="pass mask="), watch(net) as w:
        net(x, attention_mask=form())
    with pytest.raises(ValueError, match="pass mask="):
        _ = w.geometry
    with watch(net, mask=None) as w:
        net(x, attention_mask=form())
    assert w.geometry.lss.shape == shape


def test_without_padding_nothing_has_to_be_told_apart():
    net = Net()
    for shape, mask in (((9, 9), (9, 9)), ((3, 4), (3, 9)), ((9, 3), (3, 9))):
        with watch(net) as w:
            net(torch.randn(*shape, 8), attention_mask=torch.ones(mask))
        assert w.geometry.lss.numel() == shape[0] * shape[1]


def test_states_of_tokens_by_samples_and_of_streams(x, real):
    net = Net()
    with watch(net) as w:
        net(x.transpose(0, 1), attention_mask=real)
    assert_streamed(w.geometry.lss, every(net, x.transpose(0, 1))[real.T])
    with watch(net) as w:
        net(x.expand(4, 3, 9, 8), attention_mask=real)
    assert_streamed(w.geometry.lss, every(net, x.expand(4, 3, 9, 8))[real.expand(4, 3, 9)])
    with watch(net) as w:
        net(x[:, :, None].expand(3, 9, 4, 8), attention_mask=real)
    assert w.geometry.lss.shape == (23 * 4,)


def test_a_mask_by_name(x, real):
    net = Net()
    want = every(net, x)[real]
    with watch(net, mask="pixel_mask") as w:
        net(x, pixel_mask=real, attention_mask=torch.ones(3, 9))
    assert_streamed(w.geometry.lss, want)
    for name in ("src_key_padding_mask", "auto"):  # of torch's layers: true is padding
        for mask in (~real, torch.where(real, 0.0, -torch.inf)):
            with watch(net, mask=name) as w:
                net(x, src_key_padding_mask=mask)
            assert_streamed(w.geometry.lss, want)
    told = pytest.warns(RuntimeWarning, match=r"got none of this name \(attention_mask\)")
    with told, watch(net, mask="pixel_mask") as w:
        net(x, attention_mask=real)
    assert isinstance(w.refused, ValueError)


@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_transformers(batch_first, real):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    x = torch.randn(3, 9, 8) if batch_first else torch.randn(9, 3, 8)
    with watch(encoder) as w, record(encoder) as stored:
        encoder(x, src_key_padding_mask=~real)
    assert_streamed(w.geometry.lss, lss(stored.tracks)[real if batch_first else real.T])
    whole = nn.Transformer(8, 2, 3, 3, 16, batch_first=batch_first)
    target = x[:, :7] if batch_first else x[:7]
    padding = ~real[:, :7]
    with watch(whole, "decoder.layers.*") as w, record(whole, "decoder.layers.*") as stored:
        whole(x, target, src_key_padding_mask=~real, tgt_key_padding_mask=padding)
    assert_streamed(w.geometry.lss, lss(stored.tracks)[~padding if batch_first else ~padding.T])


class Turned(Net):
    """States of tokens by samples, (tokens, samples, d), of ids or images by samples."""

    def forward(self, x, attention_mask=None, input_ids=None, pixel_values=None):
        return super().forward(x.transpose(0, 1))


ORDERS = pytest.mark.parametrize("kind", [Net, Turned])


@ORDERS
def test_tokens_and_ids_that_do_not_count(x, real, kind):
    net, ids = kind(), torch.arange(27).reshape(3, 9)

    def laid(mask):
        return mask if kind is Net else mask.T

    want = every(net, x)
    with watch(net, tokens=slice(1, None)) as w:
        net(x, attention_mask=real)
    kept = real.clone()
    kept[:, 0] = False
    assert_streamed(w.geometry.lss, want[laid(kept)])
    with watch(net, tokens=[0, -1], without_ids=[0, 26], ends=True) as w:
        net(x, input_ids=ids)
    kept = torch.zeros(3, 9, dtype=torch.bool)
    kept[:, 0] = kept[:, -1] = True
    kept[0, 0] = kept[2, 8] = False
    assert_streamed(w.geometry.lss, want[laid(kept)])
    assert torch.equal(w.ends[0], (x if kind is Net else x.transpose(0, 1))[laid(kept)])
    with pytest.warns(RuntimeWarning, match="without_ids needs input_ids"), watch(net, without_ids=[0]) as w:
        net(x)
    for wrong in (3, [1.5], [True, False]):
        with pytest.raises(TypeError, match="tokens must be None, a slice or a list"):
            watch(net, tokens=wrong)
    with pytest.raises(ValueError, match="tokens must run forwards"):
        watch(net, tokens=slice(None, None, -1))


@ORDERS
@pytest.mark.parametrize("at", [9, -10])
def test_a_position_beyond_the_tokens_of_a_pass_does_not_end_it(x, real, kind, at):
    net = kind()
    with pytest.warns(RuntimeWarning, match=f"got position {at} of 9"), watch(net, tokens=[0, at]) as w:
        net(x, attention_mask=real)
    assert not w.measured
    with pytest.raises(ValueError, match="tokens must name positions of every pass"):
        _ = w.geometry


def test_a_position_beyond_the_patches_of_an_image_does_not_end_the_pass():
    net = Patches(False)
    with pytest.warns(RuntimeWarning, match="got position 9 of 9"), watch(net, tokens=[9]) as w:
        net(torch.randn(5, 8, 3, 3))
    assert not w.measured


class Patches(nn.Module):
    """An image model whose blocks see (samples, patches, d), or with `turned` (patches, samples, d)."""

    def __init__(self, turned):
        super().__init__()
        self.blocks, self.turned = nn.ModuleList(Block() for _ in range(4)), turned

    def forward(self, images):
        x = images.flatten(2)  # (samples, channels, patches)
        x = x.permute(2, 0, 1) if self.turned else x.transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("turned", [False, True])
def test_tokens_of_images(turned):
    net, images = Patches(turned), torch.randn(5, 8, 3, 3)
    want = every(net, images)
    with watch(net, tokens=slice(2, None)) as w:
        net(images)
    assert_streamed(w.geometry.lss, (want[2:] if turned else want[:, 2:]).flatten())
    for samples in (9, 3, 1) if turned else (9,):  # the first axis may hold several windows of each sample
        with pytest.warns(RuntimeWarning, match="which axis holds the tokens"), watch(net, tokens=[0]) as w:
            net(torch.randn(samples, 8, 3, 3))
        assert not w.measured


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("shape", [(3, 9), (9, 3), (5, 5)])
def test_tokens_of_torch_transformers(batch_first, shape):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    x = torch.randn(*shape, 8)
    want = every(encoder, x, layers="layers.*")
    with watch(encoder, tokens=slice(1, None)) as w:
        encoder(x)
    assert_streamed(w.geometry.lss, (want[:, 1:] if batch_first else want[1:]).flatten())


@ORDERS
def test_an_axis_of_tokens_that_is_not_known_is_asked_for(kind):
    net, x = kind(), torch.randn(9, 9, 8)
    ids = torch.arange(81).reshape(9, 9)
    for options, given in (
        ({"tokens": slice(1, None)}, {}),
        ({"tokens": slice(1, None)}, {"input_ids": ids}),
        ({"without_ids": [0, 5]}, {"input_ids": ids}),
        ({"tokens": [0]}, {"attention_mask": torch.ones(9, 9)}),
    ):
        with pytest.warns(RuntimeWarning, match="which axis holds the tokens"), watch(net, **options) as w:
            net(x, **given)
        with pytest.raises(ValueError, match="pass mask= with one value per track instead"):
            _ = w.geometry
    for options in ({"tokens": slice(None)}, {"without_ids": [99]}):  # either way all count
        with watch(net, **options) as w:
            net(x, input_ids=ids)
        assert w.geometry.lss.numel() == 81
    with pytest.warns(RuntimeWarning, match="which axis holds the tokens"), watch(net, tokens=[0]) as w:
        net(x[:3])
