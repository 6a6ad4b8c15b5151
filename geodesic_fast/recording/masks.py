# SPDX-License-Identifier: MIT
"""Which tracks count: the mask with which a network is called, read and laid onto the states of its layers.

The caller's own mask wins over those that the network makes of it further in. A mask is believed where its
shape fits in one way only and its values say what they mean; otherwise the caller is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geodesic_fast.recording import mask_mistakes

# Arguments that say which tokens count, in the order in which they are believed. torch's own layers call
# theirs ...key_padding_mask and mean by true what does not count.
_MASKS = ("attention_mask", "tgt_key_padding_mask", "src_key_padding_mask", "key_padding_mask")
_TOKENS = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")
_TEXT = ("input_ids", "inputs_embeds")
_OTHER = re.compile(
    r"(pixel_|image|visual|video|audio|speech|input_features|input_values|decoder_input|tgt$|memory$)"
)

Tokens = slice | Sequence[int] | None


@dataclass(frozen=True)
class Call:
    """What a module around the layers, or a layer, was called with."""

    masks: dict[str, Any]  # by the name of the argument
    tokens: tuple[int, ...] | None  # (batch, tokens) of the text that it was given
    ids: Tensor | None  # (batch, tokens), integers
    texts: list[tuple[int, int]]  # (batch, tokens) of that text, and of its masks
    samples: int | None  # of the images or sounds that it was given
    earlier: int | None  # tokens that a cache holds from calls before
    streams: bool  # two kinds of data were given: its mask may be of the other one

    @staticmethod
    def of(arguments: Mapping[str, Any]) -> Call:
        """Read the arguments of a call, by name."""
        given = {name: value for name, value in arguments.items() if value is not None}
        masks = {name: value for name, value in given.items() if "mask" in name}
        texts = [given[name] for name in _TOKENS if isinstance(given.get(name), Tensor)]
        tokens = tuple(texts[0].shape[:2]) if texts and texts[0].ndim >= 2 else None
        ids = next((t for t in texts if t.ndim == 2 and not t.is_floating_point()), None)
        caches = [value for value in given.values() if hasattr(value, "get_seq_length")]
        others = [name for name in given if _OTHER.match(name) and isinstance(given[name], Tensor)]
        text = any(name in given for name in (*_TEXT, "src"))
        streams = "decoder_input_ids" in arguments or (text and bool(others)) or len(others) > 1
        shapes = [
            tokens,
            *(tuple(masks[name].shape) for name in _MASKS if isinstance(masks.get(name), Tensor)),
        ]
        return Call(
            masks,
            tokens,
            ids,
            [(shape[0], shape[1]) for shape in shapes if shape is not None and len(shape) == 2],
            _samples(given),
            _seen(caches),
            streams and "memory" not in given,
        )


def _samples(given: Mapping[str, Any]) -> int | None:
    """How many samples there are: what is called an image or a sound, or looks like one, has them first."""
    inputs = [
        value
        for name, value in given.items()
        if isinstance(value, Tensor) and value.ndim > 1 and (_OTHER.match(name) or value.ndim == 4)
    ]
    counts = {len(value) for value in inputs if value.is_floating_point()}
    return counts.pop() if len(counts) == 1 else None


def _seen(caches: Sequence[Any]) -> int | None:
    lengths = set()
    for cache in caches:
        try:
            lengths.add(int(cache.get_seq_length()))
        except (TypeError, ValueError, IndexError, AttributeError, NotImplementedError):
            continue
    return lengths.pop() if len(lengths) == 1 else None


def counting(chosen: Tensor | str | None, calls: Sequence[Call], batch: tuple[int, ...]) -> Tensor | None:
    """Return which tracks count, (*batch) of bool, or None where all do.

    Args:
        chosen: what the caller said: a mask (*batch), the name of an argument, `"auto"`, or `None`.
        calls: of the modules around the layers, outermost first, and last of the layer itself.
        batch: the shape of the state without its features.

    Raises:
        ValueError: a mask that does not fit, or fits in several ways.
    """
    if chosen is None:
        return None
    if isinstance(chosen, Tensor):
        mask_mistakes.check_mask("mask", chosen, batch)
        return chosen.bool()
    refused: list[ValueError] = []
    padded = False
    for call, inner in zip(calls, [False] * (len(calls) - 1) + [True], strict=True):
        for name, mask in _candidates(call, chosen):
            read = _read(name, mask)
            if read is None and inner:
                continue  # what a layer makes of masks for itself
            padded = padded or read is None or not bool(read.all())
            laid = None if read is None else _laid(read, call, batch)
            if laid is None:
                refused.append(mask_mistakes.mask_does_not_fit(name, mask, batch))
            elif refused and padded and bool(laid.all()):
                raise refused[0]  # the caller leaves tokens out, and the network made nothing of it
            else:
                own = not inner and isinstance(mask, Tensor) and mask.ndim == 2
                return laid if own or not bool(laid.all()) else None
    if chosen != "auto" and not refused:
        raise mask_mistakes.mask_not_given(chosen, [name for call in calls for name in call.masks])
    if refused and (padded or _longer(calls, batch)):
        raise refused[0]
    _check_streams(calls[:-1], batch)
    return None


def _check_streams(calls: Sequence[Call], batch: tuple[int, ...]) -> None:
    """Refuse a mask that may be of these tokens, where all that is known is a call with several streams."""
    if not calls or not all(call.streams for call in calls):
        return
    for call in calls:
        for name in _MASKS:
            read = _read(name, call.masks.get(name))
            if read is not None and not bool(read.all()) and _ways(read, call, batch):
                raise mask_mistakes.mask_of_another_stream(name)


def _longer(calls: Sequence[Call], batch: tuple[int, ...]) -> bool:
    """Whether the layers see more tokens than the text has: some of them are then none of the caller's."""
    return any(
        call.tokens is not None and len(batch) > 1 and call.tokens[1] < max(batch[1:]) for call in calls
    )


def _candidates(call: Call, chosen: str) -> Iterator[tuple[str, Any]]:
    if chosen != "auto":
        if chosen in call.masks:
            yield chosen, call.masks[chosen]
        return
    if call.streams:
        return
    for name in _MASKS:
        if name in call.masks:
            yield name, call.masks[name]
            return


def _read(name: str, mask: Any) -> Tensor | None:
    """Return the keys that count, (batch, keys) or as (batch, queries, keys) diagonals; None: unreadable."""
    if isinstance(mask, Mapping):  # one for each kind of layer: all know the same padding
        reads = [read for value in mask.values() if (read := _read(name, value)) is not None]
        same = all(read.shape == reads[0].shape and torch.equal(read, reads[0]) for read in reads)
        return reads[0] if reads and same else None
    if not isinstance(mask, Tensor) or mask.ndim < 2:
        return None
    allowed = _allowed(mask, inverted="key_padding" in name)
    if allowed is None or mask.ndim == 2:
        return allowed
    if mask.ndim == 4 and 1 in mask.shape[1:2]:
        allowed = allowed[:, 0]
    elif mask.ndim != 3:
        return None
    return allowed[:, 0] if allowed.shape[1] == 1 else _diagonal(allowed)


def _allowed(mask: Tensor, inverted: bool) -> Tensor | None:
    """Read values: true or 1 keeps, or what is added to scores: 0 keeps, a large negative number does not."""
    if not mask.is_floating_point():
        values = mask.bool()
        known = mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
        return None if not known else (~values if inverted else values)
    if bool((mask < 0).any()):
        return mask >= 0 if bool(((mask >= 0) | (mask <= -1e4)).all()) else None
    if inverted or (mask.ndim > 2 and not bool((mask != 0).any())):
        return mask == 0
    binary = bool(((mask == 0) | (mask == 1)).all()) and bool((mask != 0).any())
    return mask.bool() if binary else None


def _diagonal(allowed: Tensor) -> Tensor | None:
    """Of (batch, queries, keys): whether each query may see its own key, (batch, queries)."""
    queries, keys = allowed.shape[1:]
    if queries > keys or not bool(allowed.any()):
        return None
    if queries == keys:
        own = allowed.diagonal(dim1=1, dim2=2)
        later = torch.ones(queries, keys, dtype=torch.bool, device=allowed.device).triu(1)
        if queries > 1 and bool(allowed[:, later].all()) and not bool(own.all()):
            own = ~own  # true where a query must not look: all later keys, and padding
        return own if bool(own.any()) else None
    at = torch.arange(keys, device=allowed.device)
    last = torch.where(allowed, at, -1).amax(-1)  # (batch, queries): the last key that a query sees
    offsets = (last - torch.arange(queries, device=allowed.device))[last >= 0]
    offset = int(offsets.max())  # the key of query 0 where the last key seen is a query's own
    if int(last.max()) != offset + queries - 1:
        return None
    return allowed[:, :, offset : offset + queries].diagonal(dim1=1, dim2=2)


def _laid(read: Tensor, call: Call, batch: tuple[int, ...]) -> Tensor | None:
    """Lay (samples, tokens) onto two axes of the states next to each other; None where they fit nowhere."""
    ways = _ways(read, call, batch)
    if len(ways) > 1:
        raise mask_mistakes.mask_fits_twice(tuple(read.shape), batch)
    return ways[0] if ways else None


def _ways(
    read: Tensor, call: Call, batch: tuple[int, ...], samples_first: bool | None = None
) -> list[Tensor]:
    """Return the different ways to lay (samples, tokens) onto two axes of the states next to each other."""
    ways: list[Tensor] = []
    for axis in range(len(batch) - 1):
        samples, tokens = batch[axis : axis + 2]
        own = _own_tokens(read, call, samples, tokens)
        turned = None if samples == tokens and own is not None else _own_tokens(read, call, tokens, samples)
        found = [own, None if turned is None else turned.T]
        if own is not None and samples == tokens:
            found = [own, own.T]
        for way, order in zip(found, (True, False), strict=True):
            if way is not None and samples_first in (None, order):
                shape = [1] * len(batch)
                shape[axis : axis + 2] = way.shape
                ways.append(way.reshape(shape).expand(batch))
    if len(batch) == 1 and tuple(read.shape) in ((batch[0], 1), (1, batch[0])):
        ways.append(read.reshape(batch))
    differ = any(not torch.equal(way, ways[0]) for way in ways) or _could_be_pairs(read, ways)
    return ways if differ else ways[:1]


def _could_be_pairs(read: Tensor, ways: Sequence[Tensor]) -> bool:
    """Whether a square mask may say which token sees which."""
    return len(ways) > 1 and read.shape[0] == read.shape[1] and not bool(read.all())


def _own_tokens(read: Tensor, call: Call, samples: int, tokens: int) -> Tensor | None:
    """Return the part of a mask (samples, all tokens) that is of the tokens of this call."""
    if read.shape[0] != samples:
        return None
    if read.shape[1] == tokens:
        return read
    earlier = read.shape[1] - tokens
    now = call.tokens is not None and call.tokens[1] == tokens
    return read[:, earlier:] if now and earlier > 0 and call.earlier in (None, earlier) else None


def narrowed(
    counts: Tensor | None,
    batch: tuple[int, ...],
    device: torch.device,
    tokens: Tokens,
    without_ids: Sequence[int] | None,
    calls: Sequence[Call],
    samples_first: bool | None,
) -> Tensor | None:
    """Return which tracks count after the positions and the ids that the caller leaves out.

    Args:
        counts: which count before that; `None`: all.
        batch: of the state, samples by tokens or tokens by samples, perhaps among axes of streams.
        device: of the state.
        tokens: the positions that stay, of those in this pass.
        without_ids: the ids that go.
        calls: as for `counting`.
        samples_first: the order of samples and tokens, where the layers know it.

    Raises:
        ValueError: which axis holds the tokens, or which track has which id, cannot be told.
    """
    if tokens is None and without_ids is None:
        return counts
    counts = torch.ones(batch, dtype=torch.bool, device=device) if counts is None else counts.to(device)
    mask_mistakes.check_token_axis(batch)
    if tokens is not None:
        counts = counts & _at(tokens, batch, calls, samples_first).to(device)
    if without_ids is not None:
        counts = counts & _without(without_ids, batch, calls, samples_first).to(device)
    return counts


def _at(
    tokens: slice | Sequence[int], batch: tuple[int, ...], calls: Sequence[Call], samples_first: bool | None
) -> Tensor:
    """Which tracks are of tokens at these positions, (*batch)."""

    def chosen(size: int) -> Tensor:
        kept = torch.zeros(size, dtype=torch.bool)
        positions = range(size)[tokens] if isinstance(tokens, slice) else tokens
        if beyond := [at for at in positions if not -size <= at < size]:
            raise mask_mistakes.token_beyond(beyond[0], size)
        kept[list(positions)] = True
        return kept

    for call in calls:
        for samples, count in call.texts:
            ways = _ways(chosen(count).expand(samples, count), call, batch, samples_first)
            if len(ways) > 1:
                raise mask_mistakes.token_axis_unclear(batch)
            if ways:
                return ways[0]
    if len(batch) == 2 and samples_first is None:
        samples_first = _order(batch, {call.samples for call in calls} - {None})
    if len(batch) != 2 or samples_first is None:
        raise mask_mistakes.token_axis_unclear(batch)
    kept = chosen(batch[int(samples_first)])
    return kept.expand(batch) if samples_first else kept[:, None].expand(batch)


def samples_first(layers: Sequence[nn.Module]) -> bool | None:
    """Whether states are (samples, tokens, d) or (tokens, samples, d), where the layers are torch's own."""
    kinds = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    orders = {layer.self_attn.batch_first if isinstance(layer, kinds) else None for layer in layers}
    return orders.pop() if len(orders) == 1 else None


def _order(batch: tuple[int, ...], samples: set[int | None]) -> bool | None:
    """Whether the samples come first in (samples, tokens), by their number; several windows may be of one."""
    known = samples.pop() if len(samples) == 1 else None
    if not known:
        return None
    first, last = batch[0] % known == 0, batch[1] == known
    return first if first != last else None


def _without(
    ids: Sequence[int], batch: tuple[int, ...], calls: Sequence[Call], samples_first: bool | None
) -> Tensor:
    """Which tracks are of tokens with other ids than these, (*batch)."""
    call = next((call for call in calls if call.ids is not None), None)
    if call is None or call.ids is None:
        raise mask_mistakes.ids_do_not_fit(None, batch)
    dropped = torch.as_tensor(list(ids), device=call.ids.device, dtype=call.ids.dtype)
    ways = _ways(~torch.isin(call.ids, dropped), call, batch, samples_first)
    if not ways:
        raise mask_mistakes.ids_do_not_fit(tuple(call.ids.shape), batch)
    if len(ways) > 1:
        raise mask_mistakes.token_axis_unclear(batch)
    return ways[0]
