# SPDX-License-Identifier: MIT
"""The `hidden_states` that a Hugging Face model returns, as tracks whose every point is what it seems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from geodesic_fast import TrackGeometry, track_geometry
from geodesic_fast._validation import check_choice
from geodesic_fast.integrations import _hidden_states as _wrong
from geodesic_fast.recording import mask_mistakes

_KEEP = ("exclude", "include")
_EMBEDDINGS = ("include", "exclude", "absent")
_SIDES = {"encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states"}


def hidden_state_tracks(
    output: Mapping[str, Any] | Sequence[Tensor | None],
    *,
    final_norm: str | None = None,
    embeddings: str | None = None,
    side: str | None = None,
    missing: str = "raise",
) -> list[Tensor]:
    """Return the tracks in what a model gave with `output_hidden_states=True`: one (batch, tokens, d) per
    layer.

    x^(0) = the embedding output, x^(l) = the output of block l, for l up to the last block or the one before.

    Args:
        output: the model's output, or its tuple `hidden_states`: the embedding output, then one entry per
            block. Of a model of images and texts one part of its output.
        final_norm: whether the last entry belongs to the track; there is no default, for it depends on the
            model. `"exclude"`: language models (GPT-2, Llama, T5, OPT, ...) give the state after their
            final norm there, which is no point of the residual stream, and give the last block's own output
            nowhere: the track ends one block early. `"include"`: models without a final norm after the
            blocks (BERT, RoBERTa) and vision models that report the state before it (ViT, CLIP, DINOv2); of
            a language model the norm is then part of the last step. To have the last block's own output,
            take `watch` or `record`.
        embeddings: `"include"`: the first entry, the embedding output, is x^(0); `"exclude"`: it is left out,
            and block 1 gives x^(0); `"absent"`: the first entry is the output of block 1, as in Mamba and
            RWKV, and is x^(0). `None`: `"include"`, and a refusal for the output of a recurrent model.
        side: `"encoder"` or `"decoder"` of an encoder-decoder model.
        missing: `"raise"` for entries that are None, which stand for layers that were not selected; `"skip"`
            goes through the others.

    Returns:
        A list of tensors, x^(0) first, not copied, with their gradients: `lss` takes it as it is.

    Raises:
        ValueError: no hidden states in `output`, None among them, `final_norm` or `side` not said.
        TypeError: `output` is neither; hidden states of `generate`, one tuple per new token; what a model
            gives with `return_dict=False`.

    Padding is still among the tracks: score them, then keep `scores[attention_mask.bool()]`, or call
    `hidden_state_geometry`.

    Example:
        >>> import torch, geodesic_fast
        >>> from geodesic_fast.integrations.hugging_face import hidden_state_tracks
        >>> hidden_states = tuple(torch.randn(2, 5, 8) for _ in range(4))
        >>> geodesic_fast.lss(hidden_state_tracks(hidden_states, final_norm="exclude")).shape
        torch.Size([2, 5])
    """
    _wrong.check_final_norm(final_norm)
    if embeddings is None:
        recurrent = isinstance(output, Mapping) and _is_recurrent(output)
        _wrong.check_embeddings_said(type(output).__name__, recurrent)
        embeddings = "include"
    check_choice("embeddings", embeddings, _EMBEDDINGS)
    check_choice("missing", missing, ("raise", "skip"))
    states = _hidden_states(output, side)
    _wrong.check_hidden_states(states, _parts(output))
    entries = list(enumerate(states))
    entries = entries[1:] if embeddings == "exclude" else entries
    entries = entries[:-1] if final_norm == "exclude" else entries
    absent = [index for index, state in entries if state is None]
    if missing == "raise":
        _wrong.check_no_placeholders(absent)
    return [state for _, state in entries if state is not None]


def hidden_state_geometry(
    output: Mapping[str, Any] | Sequence[Tensor | None],
    *,
    attention_mask: Tensor | None = None,
    zero_step: str = "skip",
    final_norm: str | None = None,
    embeddings: str | None = None,
    side: str | None = None,
    missing: str = "raise",
) -> TrackGeometry:
    """Measure the tracks in `hidden_states`, the real tokens alone where a mask says which they are.

    `track_geometry(hidden_state_tracks(output))`, of each token whose mask is 1.

    Args:
        output, final_norm, embeddings, side, missing: as for `hidden_state_tracks`.
        attention_mask: (batch, tokens), 1 for real tokens; for a decoder its decoder_attention_mask. `None`:
            every token counts. One that could as well be (tokens, tokens), because there are as many samples
            as tokens and each token i of sample i is real, is refused.
        zero_step: as in `track_geometry`.

    Returns:
        TrackGeometry of tensors (real tokens,), or (batch, tokens) without a mask.

    Raises:
        ValueError, TypeError: as `hidden_state_tracks`; a mask of another shape.

    Differentiable as `track_geometry`.

    Example:
        >>> import torch
        >>> from geodesic_fast.integrations.hugging_face import hidden_state_geometry
        >>> hidden_states = tuple(torch.randn(2, 5, 8) for _ in range(4))
        >>> mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
        >>> geometry = hidden_state_geometry(hidden_states, attention_mask=mask, final_norm="exclude")
        >>> geometry.lss.shape
        torch.Size([7])
    """
    tracks = hidden_state_tracks(
        output, final_norm=final_norm, embeddings=embeddings, side=side, missing=missing
    )
    if attention_mask is None:
        return track_geometry(tracks, zero_step=zero_step)
    mask_mistakes.check_mask("attention_mask", attention_mask, tuple(tracks[0].shape[:-1]))
    _wrong.check_no_pairs(attention_mask)
    real = attention_mask.to(device=tracks[0].device).bool()
    geometry = track_geometry(tracks, zero_step="skip" if zero_step == "raise" else zero_step)
    geometry = TrackGeometry._make(field[real] for field in geometry)
    if zero_step == "raise":
        _wrong.check_no_zero_step_among(geometry.zero_steps)
    return geometry


def _hidden_states(output: Any, side: str | None) -> Any:
    if not isinstance(output, Mapping):
        return output
    if side is not None:
        check_choice("side", side, tuple(_SIDES))
        return output.get(_SIDES[side], output.get("hidden_states"))
    _wrong.check_one_side([name for name, key in _SIDES.items() if output.get(key) is not None])
    return output.get("hidden_states", output.get("decoder_hidden_states"))


def _parts(output: Any) -> list[str]:
    """The parts of an output, as of a model of images and texts, that hold hidden states."""
    if not isinstance(output, Mapping):
        return []
    parts = {name: part for name, part in output.items() if isinstance(part, Mapping)}
    return [name for name, part in parts.items() if any("hidden_states" in key for key in part)]


def _is_recurrent(output: Mapping[str, Any]) -> bool:
    """Whether an output carries what a recurrence keeps: its state, or a cache without attentions."""
    held = {*output, *getattr(type(output), "__dataclass_fields__", ())}
    own = held & {"cache_params", "state", "rnn_state"}
    return bool(own) or ("cache" in held and not any("attentions" in name for name in held))
