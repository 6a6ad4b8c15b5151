# SPDX-License-Identifier: MIT
"""Hidden states as the tuples they come in, whatever version of transformers is here, or none."""

import pytest
import torch

from geodesic_fast import reference
from geodesic_fast.integrations.hugging_face import hidden_state_geometry, hidden_state_tracks


def states(count, tokens=5, absent=()):
    """Return hidden states (2, tokens, 8) each, None where a layer was not selected."""
    return tuple(
        None if index in absent else torch.randn(2, tokens, 8, dtype=torch.float64) for index in range(count)
    )


def same(tracks, expected):
    return len(tracks) == len(expected) and all(a is b for a, b in zip(tracks, expected, strict=True))


def test_placeholders_are_refused_or_skipped():
    given = states(7, absent=(1, 2, 5))
    with pytest.raises(ValueError, match=r"got None at 1, 2, 5"):
        hidden_state_tracks(given, final_norm="include")
    assert same(
        hidden_state_tracks(given, final_norm="include", missing="skip"), [given[i] for i in (0, 3, 4, 6)]
    )
    for output in (list(given), {"hidden_states": given}):
        tracks = hidden_state_tracks(output, final_norm="exclude", missing="skip")
        assert same(tracks, [given[i] for i in (0, 3, 4)])


def test_placeholders_that_are_left_out_do_not_count():
    given = states(6, absent=(0, 5))
    with pytest.raises(ValueError, match=r"got None at 0, 5"):
        hidden_state_tracks(given, final_norm="include")
    with pytest.raises(ValueError, match=r"got None at 0\b(?!,)"):
        hidden_state_tracks(given, final_norm="exclude")
    assert same(hidden_state_tracks(given, final_norm="exclude", embeddings="exclude"), given[1:5])


def test_geometry_goes_through_the_layers_that_are_there():
    given = states(7, absent=(1, 2, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    got = hidden_state_geometry(given, attention_mask=mask, final_norm="include", missing="skip")
    there = torch.stack([state for state in given if state is not None])
    for field, expected in zip(got, reference.track_geometry(there), strict=True):
        torch.testing.assert_close(field, expected[mask.bool()], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_encoder_and_decoder(side):
    output = {
        "logits": torch.randn(2, 3, 9), "encoder_hidden_states": states(4, tokens=6),
        "decoder_hidden_states": states(5, tokens=3), "encoder_last_hidden_state": torch.randn(2, 6, 8),
    }  # fmt: skip
    with pytest.raises(ValueError, match="got hidden states of the encoder and the decoder"):
        hidden_state_tracks(output, final_norm="include")
    chosen = output[f"{side}_hidden_states"]
    assert same(hidden_state_tracks(output, final_norm="include", side=side), chosen)
    real = torch.ones(chosen[0].shape[:-1])
    real[1, 1:] = 0
    got = hidden_state_geometry(output, attention_mask=real, final_norm="exclude", side=side)
    torch.testing.assert_close(got.lss, reference.lss(torch.stack(chosen[:-1]))[real.bool()])
    other = output[f"{'decoder' if side == 'encoder' else 'encoder'}_hidden_states"]
    with pytest.raises(ValueError, match=r"attention_mask must have one value per track, shape \(2, \d\)"):
        hidden_state_geometry(
            output, attention_mask=torch.ones(other[0].shape[:-1]), final_norm="exclude", side=side
        )


def test_a_side_is_said_where_the_model_has_two():
    encoder, decoder = states(4), states(3)
    for output in (
        {"encoder_hidden_states": encoder, "decoder_hidden_states": decoder},
        {"encoder_hidden_states": encoder, "decoder_hidden_states": None},
        {"decoder_hidden_states": decoder},
    ):
        with pytest.raises(ValueError, match="side must say which half of an encoder-decoder model"):
            hidden_state_tracks(output, final_norm="include")
    alone = {"hidden_states": encoder}  # what an encoder gives that is called by itself
    assert same(hidden_state_tracks(alone, final_norm="include"), encoder)
    assert same(hidden_state_tracks(alone, final_norm="include", side="encoder"), encoder)
    half = {"encoder_hidden_states": None, "decoder_hidden_states": decoder}
    assert same(hidden_state_tracks(half, final_norm="include", side="decoder"), decoder)
    with pytest.raises(ValueError, match="call the model with output_hidden_states=True"):
        hidden_state_tracks(half, final_norm="include", side="encoder")
    with pytest.raises(ValueError, match="side must be one of 'encoder', 'decoder'"):
        hidden_state_tracks(half, final_norm="include", side="both")


def test_a_square_mask_that_may_be_of_pairs_of_tokens_is_refused():
    given = tuple(torch.randn(5, 5, 8) for _ in range(4))
    with pytest.raises(ValueError, match=r"could be \(tokens, tokens\)"):
        hidden_state_geometry(given, attention_mask=torch.ones(5, 5).tril(), final_norm="include")
    padded = torch.ones(5, 5)
    padded[3, 2:] = 0  # token 3 of sample 3 is padding: no matrix of pairs
    got = hidden_state_geometry(given, attention_mask=padded, final_norm="include")
    assert got.lss.shape == (22,)
    assert (
        hidden_state_geometry(given, attention_mask=torch.ones(5, 5), final_norm="include").lss.numel() == 25
    )


def test_hidden_states_that_begin_with_block_1():
    given = states(4)
    output = {"last_hidden_state": given[-1], "cache_params": None, "hidden_states": given}
    with pytest.raises(ValueError, match="embeddings must say what the first hidden state is"):
        hidden_state_tracks(output, final_norm="exclude")
    assert same(hidden_state_tracks(output, final_norm="exclude", embeddings="absent"), given[:3])
    assert same(hidden_state_tracks(output, final_norm="exclude", embeddings="include"), given[:3])
    assert same(hidden_state_tracks(given, final_norm="exclude"), given[:3])


def test_outputs_of_a_model_with_attention_are_not_recurrent():
    given = states(4)
    for attentions in ("attentions", "decoder_attentions", "cross_attentions"):
        output = {"hidden_states": given, "cache": None, attentions: None}
        assert same(hidden_state_tracks(output, final_norm="include"), given)
    with pytest.raises(ValueError, match="embeddings must say what the first hidden state is"):
        hidden_state_tracks({"hidden_states": given, "cache": None}, final_norm="include")
