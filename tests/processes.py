# SPDX-License-Identifier: MIT
"""Processes joined by gloo that serve all tests of a file: a call runs a function on the first few."""

import contextlib
import multiprocessing
import os
import tempfile
from datetime import timedelta

import torch
import torch.distributed as dist

_PATIENCE = 120  # seconds that a test waits for a process


class Processes:
    """`count` processes; call(function, size, *args) returns function(group, rank, *args) of each."""

    def __init__(self, count):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch", "geodesic_fast", "transport_problems"])
        self.folder = tempfile.TemporaryDirectory()
        ends = [self.context.Pipe() for _ in range(count)]
        store = os.path.join(self.folder.name, "store")
        self.pipes = [ours for ours, _ in ends]
        self.running = [
            self.context.Process(target=_serve, args=(rank, count, store, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(ends)
        ]
        for process in self.running:
            process.start()

    def call(self, function, size, *args):
        """Return what each of the first `size` processes returns, or the name and words of its error."""
        for pipe in self.pipes[:size]:
            pipe.send((function, size, args))
        found = []
        for rank, pipe in enumerate(self.pipes[:size]):
            assert pipe.poll(_PATIENCE), f"process {rank} of {size} waits for ever"
            with contextlib.suppress(EOFError):
                found.append(pipe.recv())
        return found

    def close(self):
        """End them."""
        for process in self.running:
            process.kill()
            process.join()
        self.folder.cleanup()


def _serve(rank, count, store, pipe):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    groups = [dist.new_group(list(range(size))) for size in range(1, count + 1)]
    while True:
        function, size, args = pipe.recv()
        try:
            found = function(groups[size - 1], rank, *args)
        except BaseException as error:
            found = type(error).__name__, str(error)
        pipe.send(found)
