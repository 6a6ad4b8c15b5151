# SPDX-License-Identifier: MIT
"""What can be wrong with the hidden states of a Hugging Face model: one function per mistake."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_final_norm(final_norm: object) -> None:
    """Refuse to guess whether the last hidden state is after a final norm."""
    if final_norm not in ("exclude", "include"):
        raise ValueError(
            f"final_norm must be 'exclude' or 'include', got {final_norm!r}: language models such as "
            "GPT-2, Llama and T5 "
            "return the state after their final norm as the last entry (exclude it), models such as BERT "
            "and ViT the last block's own output (include it)."
        )


def check_embeddings_said(output: str, recurrent: bool) -> None:
    """Refuse to guess what the first entry of a recurrent model's hidden states is."""
    if recurrent:
        raise ValueError(
            f"embeddings must say what the first hidden state is, got {output}, the output of a recurrent "
            "model: pass embeddings='absent' where it is that of block 1 (Mamba, FalconMamba, RWKV), or "
            "embeddings='include' where it is the embedding output."
        )


def check_no_pairs(mask: Tensor) -> None:
    """Refuse a square mask that may say which token sees which."""
    square = mask.ndim == 2 and mask.shape[0] == mask.shape[1] and mask.shape[0] > 1
    if square and bool(mask.diagonal().all()) and not bool(mask.all()):
        raise ValueError(
            "attention_mask must be (batch, tokens), got a square one in which every token sees itself, "
            "which could be (tokens, tokens): score hidden_state_tracks(output), then keep "
            "scores[mask.bool()]."
        )


def check_one_side(sides: Sequence[str]) -> None:
    """Refuse to guess which half of an encoder-decoder model is meant."""
    if sides:
        raise ValueError(
            f"side must say which half of an encoder-decoder model to measure, got hidden states of the "
            f"{' and the '.join(sides)}: pass side='encoder' or side='decoder'."
        )


def check_hidden_states(states: object, parts: Sequence[str]) -> None:
    """Refuse what is not a tuple with one tensor, or None, per layer; `parts` have their own."""
    if states is None and parts:
        raise ValueError(
            f"output must be of one model, got one whose parts have hidden states of their own "
            f"({', '.join(parts)}): pass one of them, output.{parts[0]}."
        )
    if states is None:
        raise ValueError(
            "output must hold hidden_states, got none: call the model with output_hidden_states=True."
        )
    if not isinstance(states, tuple | list):
        raise TypeError(
            f"output must be a model's output or its tuple hidden_states, got {type(states).__name__}: "
            "pass what the model returned."
        )
    if states and all(isinstance(state, tuple | list) for state in states):
        raise TypeError(
            "output must hold one tensor per layer, got one tuple per generated token: call the model "
            "itself on the generated text instead of model.generate."
        )
    if other := [type(state).__name__ for state in states if not isinstance(state, Tensor | None)]:
        raise TypeError(
            f"output must hold one tensor per layer, got a {other[0]} among them, as in what a model gives "
            "with return_dict=False: pass the tuple hidden_states that is inside, or call it with "
            "return_dict=True."
        )


def check_no_placeholders(absent: Sequence[int]) -> None:
    """Refuse hidden states that were not selected."""
    if absent:
        raise ValueError(
            f"hidden_states must hold a tensor for every layer, got None at {', '.join(map(str, absent))}: "
            "call the model with output_hidden_states=True, or pass missing='skip' to go through the others."
        )


def check_no_zero_step_among(zero_steps: Tensor) -> None:
    """Refuse steps of length zero under zero_step='raise'."""
    if found := int(zero_steps.sum()):
        raise ValueError(
            f"zero_step='raise' allows no step of length zero, got {found} of them among the tracks that "
            "count: pass zero_step='skip' to leave such steps out."
        )
