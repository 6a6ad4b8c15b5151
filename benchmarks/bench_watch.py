# SPDX-License-Identifier: MIT
"""What `watch` costs on a GPT-2-small-sized network, in time and in memory, beside what people do today.

`python benchmarks/bench_watch.py` prints a table and saves it; `pytest benchmarks/bench_watch.py` checks the
ratios. Times are of runs that take turns. Memory is told twice: the peak of what torch allocates during a
pass, which is exact, and the peak of the process.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from measure import peak_above_now, report, save
from torch import Tensor, nn

import geodesic_fast
from geodesic_fast.recording import TrackAccumulator, record, watch

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

BATCH, TOKENS, LAYERS, WIDTH = 4, 256, 12, 768
HIDDEN_BYTES = BATCH * TOKENS * WIDTH * 4
M_MMAP_THRESHOLD, MAPPED = -3, 64 << 10  # memory of that size goes back to the system when it is freed


def gpt2_small(head: bool) -> nn.Module:
    config = transformers.GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=12, vocab_size=50257)
    torch.manual_seed(0)
    return (transformers.GPT2LMHeadModel if head else transformers.GPT2Model)(config).eval()


def eager_lss(states: tuple[Tensor, ...]) -> Tensor:
    """Stack the hidden states and score them with torch, as is usual."""
    x = torch.stack(states)
    v = x.diff(dim=0)
    u = v / v.norm(dim=-1, keepdim=True)
    return len(v) / u.sum(0).norm(dim=-1)


def take_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in times.items()}


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that torch holds at once, above what it held before, while `run` runs."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        kept = run()
    held = peak = 0
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    del kept
    return peak


def time_ratios(rounds: int, threads: int) -> dict[str, Any]:
    """The watched over the plain pass, with plain passes on both sides of each; and the metric parts."""
    torch.set_num_threads(threads)
    model, ids = gpt2_small(head=False), torch.randint(0, 50257, (BATCH, TOKENS))
    watching, profiling = watch(model), watch(model, profile=True)

    def plain() -> None:
        model(input_ids=ids)

    def watched() -> None:
        with watching:
            model(input_ids=ids)

    def profiled() -> None:
        with profiling:
            model(input_ids=ids)

    with torch.no_grad():
        turns = {"before": plain, "watched": watched, "between": plain, "profiled": profiled, "after": plain}
        passes = take_turns(turns, rounds)
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        ways = {
            "eager": lambda: eager_lss(states),
            "streamed": lambda: streamed(states),
            "profile": lambda: streamed(states, profile=True),
        }
        parts = take_turns(ways, 3 * rounds)
    median = statistics.median
    plain_pass = median(passes["before"] + passes["between"] + passes["after"])

    def over_plain(before: str, name: str, after: str) -> float:
        columns = zip(passes[before], passes[name], passes[after], strict=True)
        return median(2 * w / (a + b) for a, w, b in columns)

    return {
        "threads": threads,
        "plain pass ms": 1e3 * plain_pass,
        "watched/plain": over_plain("before", "watched", "between"),
        "with profile/plain": over_plain("between", "profiled", "after"),
        "streamed/plain pass": median(parts["streamed"]) / plain_pass,
        "profile/plain pass": median(parts["profile"]) / plain_pass,
        "eager metric ms": 1e3 * median(parts["eager"]),
        "streamed metric ms": 1e3 * median(parts["streamed"]),
        "GB/s": traffic_bytes() / median(parts["streamed"]) / 1e9,
        "eager/streamed": median(a / b for a, b in zip(parts["eager"], parts["streamed"], strict=True)),
    }


def traffic_bytes() -> int:
    """What the updates of a pass move: two layers read, the sum and the last direction read and written."""
    tracks, features = BATCH * TOKENS, WIDTH
    return LAYERS * tracks * features * (4 + 4 + 2 * 4 + 2 * 3)


def streamed(states: tuple[Tensor, ...], profile: bool = False) -> Tensor:
    accumulator = TrackAccumulator(copy=False, profile=profile)
    for state in states:
        accumulator.push(state)
    return accumulator.close().lss


def memory_ratios(head: bool) -> dict[str, Any]:
    """Peaks above the plain pass, in hidden states (batch x tokens x width float32 values).

    In a process of its own, where freed memory goes back to the system at once.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_memory, (head,))


def measure_memory(head: bool) -> dict[str, Any]:
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED)
    model, ids = gpt2_small(head), torch.randint(0, 50257, (BATCH, TOKENS))

    def plain() -> Any:
        return model(input_ids=ids)

    def watched() -> Any:
        with watch(model) as w:
            model(input_ids=ids)
        return w.geometry

    def usual() -> Any:
        output = model(input_ids=ids, output_hidden_states=True)
        return eager_lss(output.hidden_states)

    def frugal() -> Any:  # forgets everything but the hidden states first
        return eager_lss(model(input_ids=ids, output_hidden_states=True).hidden_states)

    row: dict[str, Any] = {"network": "with its head" if head else "without a head"}
    with torch.no_grad():
        plain()
        for how, peak_of in (("torch", peak_bytes), ("process", process_peak)):
            base = peak_of(plain)
            for name, run in (("watch", watched), ("usual", usual), ("frugal", frugal)):
                row[f"{name} extra states, {how}"] = (peak_of(run) - base) / HIDDEN_BYTES
    return row


def process_peak(run: Callable[[], Any]) -> float:
    return peak_above_now(run, "cpu") or float("nan")


def lss_error() -> dict[str, float]:
    """The largest relative error against float64 of the stored states: streamed, stored, eager."""
    model, ids = gpt2_small(head=False), torch.randint(0, 50257, (BATCH, TOKENS))
    with torch.no_grad(), watch(model) as w, record(model) as recording:
        model(input_ids=ids)
    exact = geodesic_fast.reference.lss([state.double() for state in recording.tracks])
    scores = {
        "watch": w.geometry.lss,
        "stored": geodesic_fast.lss(recording.tracks),
        "eager": eager_lss(tuple(recording.tracks)),
    }
    return {name: ((score - exact).abs() / exact).max().item() for name, score in scores.items()}


@pytest.mark.parametrize("threads", [1, 2])
def test_watch_costs_little_time(threads):
    """On a busy machine two threads wait for the one that is not running: room for that."""
    before = torch.get_num_threads()
    times = time_ratios(rounds=5, threads=threads)
    torch.set_num_threads(before)
    assert times["eager/streamed"] > (5 if threads == 1 else 2.5)
    assert times["streamed/plain pass"] < 0.04


def test_watch_costs_little_memory():
    without, head = memory_ratios(head=False), memory_ratios(head=True)
    for row in (without, head):
        assert row["watch extra states, torch"] < 3
        assert row["watch extra states, process"] < 3
        assert row["usual extra states, torch"] > 4 * row["watch extra states, torch"]


def test_watch_errs_no_more():
    errors = lss_error()
    assert errors["watch"] <= 2 * errors["eager"]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    args = parser.parse_args()
    network = {"case": f"GPT-2, {LAYERS} layers, {WIDTH} wide, {BATCH} x {TOKENS} tokens, float32"}
    most = max(args.threads)
    jobs: list[Callable[[], dict[str, Any]]]
    jobs = [lambda threads=threads: time_ratios(args.rounds, threads) for threads in args.threads]
    jobs += [lambda head=head: memory_ratios(head) for head in (False, True)]
    jobs += [lambda: {f"LSS error, {name}": value for name, value in lss_error().items()}]
    rows: list[dict[str, Any]] = []
    for job in jobs:
        rows.append(network | job())
        torch.set_num_threads(most)
        save("bench_watch", "cpu", rows)
    report("bench_watch", "cpu", rows)


if __name__ == "__main__":
    main()
