# SPDX-License-Identifier: MIT
"""The processes that share one call: what they exchange, and how an error on one ends the call on all.

Every process makes the same exchanges in the same order. Each begins with a word from everybody: all is well
and this is the exchange I mean, or I have failed and go no further. So a process that fails takes part in one
more exchange, and nobody waits for it afterwards; one that dies is noticed by torch.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import signal
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Given = TypeVar("Given")

_WELL, _FAILED = 0, 1
_KINDS = (TypeError, ValueError, MemoryError, ImportError, NotImplementedError)


class Processes:
    """The processes of a group in the order of their ranks, or this one alone."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size = 0, 1
        self._group, self._over = group, group is None
        self._devices = {"cpu"}
        if group is not None:
            self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
            self._ranks = [dist.get_global_rank(group, rank) for rank in range(self.size)]
            backends = dict(pair.split(":") for pair in dist.get_backend_config(group).split(","))
            self._devices = {kind for kind, name in backends.items() if kind == "cpu" or name == "nccl"}

    def meet(self, where: str) -> None:
        """Wait for all, and go on if none has failed or is elsewhere."""
        if self.size > 1:
            with _uninterrupted():
                self._words(_WELL, where, 0)

    def numbers(self, number: int) -> list[int]:
        """Return the whole number that each process gives."""
        if self.size == 1:
            return [number]
        with _uninterrupted():
            return self._words(_WELL, "number", number)

    def lowest(self, values: Tensor) -> Tensor:
        """Return the least of each value over all processes."""
        return self._reduced(values, dist.ReduceOp.MIN)

    def highest(self, values: Tensor) -> Tensor:
        """Return the largest of each value over all processes."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of each whole number over all processes, which has no order."""
        assert not values.is_floating_point()
        return self._reduced(values, dist.ReduceOp.SUM)

    def gathered(self, values: Tensor) -> Tensor:
        """Return the values of all processes along the first axis, in the order of the processes."""
        if self.size == 1:
            return values
        counts = self.numbers(len(values))
        device, own = values.device, self._bytes(values)
        every = own.new_empty((sum(counts), *own.shape[1:]))
        parts = every.split(counts)
        parts[self.rank].copy_(own)
        with self._exchange(f"gather {counts}"):
            for rank, part in enumerate(parts):
                if part.numel():
                    dist.broadcast(part, group=self._group, src=self._ranks[rank])
        return every.view(values.dtype).reshape(len(every), *values.shape[1:]).to(device)

    def same(self, values: Tensor) -> Tensor:
        """Return what the first process gives; all give values of one shape."""
        if self.size == 1:
            return values
        sent = self._bytes(values).clone()
        with self._exchange(f"same {tuple(values.shape)}"):
            dist.broadcast(sent, group=self._group, src=self._ranks[0])
        return sent.view(values.dtype).reshape(values.shape).to(values.device)

    def shared(self, make: Callable[[], Given]) -> Given:
        """Return what the first process makes, to all."""
        if self.size == 1:
            return make()
        made = pickle.dumps(make() if self.rank == 0 else None)
        length = self.numbers(len(made))[0]
        sent = torch.zeros(length, dtype=torch.uint8)
        if self.rank == 0:
            sent = torch.frombuffer(bytearray(made), dtype=torch.uint8)
        found: Given = pickle.loads(self.same(sent).numpy().tobytes())
        return found

    def dealt(self, values: Tensor, shares: Sequence[range]) -> Tensor:
        """Return this process's share of the values of all, numbered in the order of the processes."""
        if self.size == 1:
            return values
        held = np.cumsum([0, *self.numbers(len(values))])
        sent, own = self._bytes(values), shares[self.rank]
        received = sent.new_empty((len(own), *sent.shape[1:]))
        moves = []
        for rank, share in enumerate(shares):
            first, last = held[self.rank], held[self.rank + 1]
            mine = sent[max(share.start, first) - first : max(min(share.stop, last) - first, 0)]
            first, last = held[rank], held[rank + 1]
            theirs = received[max(own.start, first) - own.start : max(min(own.stop, last) - own.start, 0)]
            if rank == self.rank:
                theirs.copy_(mine)
                continue
            for part, move in ((mine, dist.isend), (theirs, dist.irecv)):
                if part.numel():
                    moves.append(dist.P2POp(move, part, self._ranks[rank], self._group))
        with self._exchange(f"deal {held} {shares}"):
            for work in dist.batch_isend_irecv(moves) if moves else ():
                work.wait()
        return received.view(values.dtype).reshape(len(own), *values.shape[1:]).to(values.device)

    def together(
        self, shares: Sequence[range], index: np.ndarray, of: Callable[[np.ndarray], Tensor]
    ) -> Tensor:
        """Return of(index) of an index that all ask for: each process adds what belongs to its share."""
        if self.size == 1:
            return of(index)
        owner = np.searchsorted([share.stop for share in shares], index, side="right").astype(np.int16)
        found = self.gathered(of(index[owner == self.rank]))
        if (owner[1:] >= owner[:-1]).all():
            return found
        place = torch.from_numpy(np.argsort(owner, kind="stable")).to(found.device)
        return torch.empty_like(found).index_copy_(0, place, found)

    def on_this_device(self, device: torch.device) -> int:
        """Return how many of the processes share the device with this one."""
        index = device.index if device.index is not None or device.type == "cpu" else _current(device)
        own = zlib.crc32(f"{socket.gethostname()} {device.type} {index}".encode())
        return self.numbers(own).count(own)

    def tell(self, error: BaseException) -> None:
        """End the call on all processes with one sentence, unless they know already."""
        if self._over:
            return
        said = str(error) or type(error).__name__
        if not isinstance(error, Exception):
            said = f"ended by {type(error).__name__}"
        try:
            with _uninterrupted():
                self._words(_FAILED, "", 0, (type(error).__name__, said))
        except Exception as told:
            if isinstance(error, Exception):
                raise told from error

    def part(self) -> None:
        """Go apart: from here on no process can fail the others."""
        self._over = True

    def _reduced(self, values: Tensor, by: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        sent = self._on_wire(values).clone()
        with self._exchange(f"reduce {by} {values.dtype} {tuple(values.shape)}"):
            dist.all_reduce(sent, by, group=self._group)
        return sent.to(values.device)

    def _on_wire(self, values: Tensor) -> Tensor:
        """Return values where the group's backend takes them."""
        if values.device.type in self._devices:
            return values.contiguous()
        return values.contiguous().to("cpu" if "cpu" in self._devices else torch.device("cuda", _current()))

    def _bytes(self, values: Tensor) -> Tensor:
        return self._on_wire(values).reshape(len(values), math.prod(values.shape[1:])).view(torch.uint8)

    @contextlib.contextmanager
    def _exchange(self, what: str) -> Iterator[None]:
        """Make sure that all are about to do the same, and that nothing comes in between."""
        with _uninterrupted():
            self._words(_WELL, what, 0)
            with self._lost_if_it_fails():
                yield

    def _words(self, status: int, what: str, number: int, failure: tuple[str, str] = ("", "")) -> list[int]:
        """Exchange status, kind of exchange and a number; raise on all what the first to fail has to say."""
        own = self._on_wire(torch.tensor([status, zlib.crc32(what.encode()), number]))
        words = [torch.empty_like(own) for _ in range(self.size)]
        with self._lost_if_it_fails():
            dist.all_gather(words, own, group=self._group)
        said = torch.stack(words).tolist()
        failed = [rank for rank, word in enumerate(said) if word[0] == _FAILED]
        if failed:
            with self._lost_if_it_fails():
                kind, sentence = self._failure(failed[0], failure)
            self._over = True
            raise kind(f"process {failed[0]} of {self.size}: {sentence}")
        if len({word[1] for word in said}) > 1:
            self._over = True
            raise RuntimeError(
                "the processes of the group must make the same calls in the same order, got different ones: "
                "look for a condition that holds on some of them alone."
            )
        return [word[2] for word in said]

    def _failure(self, rank: int, failure: tuple[str, str]) -> tuple[type[Exception], str]:
        told = torch.frombuffer(bytearray(pickle.dumps(failure)), dtype=torch.uint8)
        length = self._on_wire(torch.tensor([len(told)]))
        dist.broadcast(length, group=self._group, src=self._ranks[rank])
        sent = self._on_wire(told if self.rank == rank else told.new_empty(int(length)))
        dist.broadcast(sent, group=self._group, src=self._ranks[rank])
        name, sentence = pickle.loads(sent.cpu().numpy().tobytes())
        known = {kind.__name__: kind for kind in _KINDS}
        return known.get(name, RuntimeError), sentence

    @contextlib.contextmanager
    def _lost_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._over = True  # the others cannot be reached
            raise


ALONE = Processes()


@contextlib.contextmanager
def processes_of(group: dist.ProcessGroup | None, call: str) -> Iterator[Processes]:
    """Give the processes of a group for one call, which all make, and in which an error ends it on all."""
    if group is None:
        yield ALONE
        return
    processes = Processes(_checked(group))
    try:
        processes.meet(call)
        yield processes
        processes.meet("the end")
        processes.part()
    except BaseException as error:
        processes.tell(error)
        raise


def _checked(group: object) -> dist.ProcessGroup:
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be a torch.distributed.ProcessGroup, got {type(group).__name__}: pass "
            "torch.distributed.group.WORLD after init_process_group, or what new_group returns."
        )
    if dist.get_rank(group) < 0:
        raise ValueError(
            "group must hold this process, got one without it: let the processes of the group make the call."
        )
    return group


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back: half of an exchange would leave the others waiting."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        signal.raise_signal(signal.SIGINT)


def _current(device: torch.device | None = None) -> int:
    return torch.cuda.current_device() if device is None or device.type == "cuda" else 0
