# SPDX-License-Identifier: MIT
"""What can be wrong with what says which tracks count: masks, positions of tokens, ids that are left out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class MaskUnclear(ValueError):
    """A mask of the call that cannot be laid onto the states in one way."""


def mask_does_not_fit(name: str, mask: object, batch: tuple[int, ...]) -> MaskUnclear:
    """Say that a mask of the call has no value for each track."""
    what = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    return MaskUnclear(
        f"the {name} of the call must have one value per track, shape {batch}, got {what}: pass mask= with "
        "the tokens that the layers see, true where a track counts, or mask=None to count every token."
    )


def mask_fits_twice(shape: tuple[int, ...], batch: tuple[int, ...]) -> MaskUnclear:
    """Say that a mask could mean samples by tokens, tokens by samples, or which token sees which."""
    return MaskUnclear(
        f"the mask of the call must fit the states in one way, got shape {shape} for tracks of "
        f"shape {batch}, "
        "where "
        "samples and tokens, or tokens and tokens, cannot be told apart: pass mask= with one value per "
        "track, or mask=None to count every token."
    )


def mask_of_another_stream(name: str) -> MaskUnclear:
    """Say that a call has two kinds of data and one mask."""
    return MaskUnclear(
        f"the {name} of the call must belong to the tokens of the layers, got one of a call with several "
        "kinds of data: pass mask= with one value per track, or mask=None to count every token."
    )


def mask_not_given(name: str, names: Sequence[str]) -> MaskUnclear:
    """Say that the call has no mask of the name that was asked for."""
    return MaskUnclear(
        f"mask={name!r} must be an argument of a call around the layers, got none of this name "
        f"({', '.join(dict.fromkeys(names)) or 'and no other mask'}): pass the name of one, or a tensor."
    )


def check_tokens(tokens: object) -> None:
    """Refuse what does not choose tokens."""
    if not (tokens is None or isinstance(tokens, slice | list | tuple | range)):
        raise TypeError(f"tokens must be None, a slice or a list of positions, got {type(tokens).__name__}.")
    if isinstance(tokens, slice):
        if tokens.step is not None and tokens.step < 1:
            raise ValueError(f"tokens must run forwards, got {tokens}: which tracks count has no order.")
    elif other := [at for at in tokens or () if isinstance(at, bool) or not hasattr(at, "__index__")]:
        raise TypeError(
            f"tokens must be None, a slice or a list of positions, got {other[0]!r} among them: "
            "pass mask= with one value per track instead."
        )


def check_without_ids(without_ids: object) -> None:
    """Refuse what is no list of ids."""
    if isinstance(without_ids, str | int) and not isinstance(without_ids, type(None)):
        raise TypeError(f"without_ids must be None or a list of token ids, got {without_ids!r}.")


def check_token_axis(batch: tuple[int, ...]) -> None:
    """Refuse a choice of tokens where there is no axis of tokens."""
    if len(batch) < 2:
        raise ValueError(
            f"tokens and without_ids need states of shape (batch, tokens, d), got tracks of shape {batch}: "
            "pass mask= instead."
        )


def token_beyond(at: int, size: int) -> MaskUnclear:
    """Say that a pass has fewer tokens than a position asks for."""
    return MaskUnclear(
        f"tokens must name positions of every pass, got position {at} of {size} tokens: pass a slice, which "
        "takes those that are there."
    )


def token_axis_unclear(batch: tuple[int, ...]) -> MaskUnclear:
    """Say that the axis of the tokens cannot be told."""
    return MaskUnclear(
        f"tokens and without_ids need to know which axis holds the tokens, got tracks of shape {batch}, "
        "where the arguments of the call do not tell samples and tokens apart: pass mask= "
        "with one value per track instead, or a batch of another size."
    )


def ids_do_not_fit(shape: tuple[int, ...] | None, batch: tuple[int, ...]) -> MaskUnclear:
    """Say that the token ids of the call are not those of the tracks."""
    return MaskUnclear(
        f"without_ids needs input_ids of one id per track, shape {batch}, got {shape or 'none'}: call the "
        "model with input_ids, or pass mask= instead."
    )


def check_mask(name: str, mask: object, shape: tuple[int, ...]) -> None:
    """Refuse a mask that does not say for each track whether it counts."""
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(mask).__name__}: convert it with torch.as_tensor."
        )
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"{name} must have one value per track, shape {shape}, got {tuple(mask.shape)}: pass the mask "
            "of the "
            "tokens that the layers see (2-d, without a cache of earlier tokens; decoder_attention_mask "
            "for a decoder), or None to count every token."
        )
    if mask.is_floating_point() and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"{name} must be true or 1 where a track counts and 0 elsewhere, got other values in a mask of "
            f"{mask.dtype}: a mask that is added to attention scores becomes one by mask == 0."
        )


def check_watch_mask(mask: object) -> None:
    """Refuse a mask that is neither a name, a tensor nor None."""
    if not isinstance(mask, str | Tensor | None):
        raise TypeError(
            "mask must be 'auto', the name of an argument, None or a tensor with one value per track, got "
            f"{type(mask).__name__}: convert it with torch.as_tensor."
        )
