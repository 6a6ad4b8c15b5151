# SPDX-License-Identifier: MIT
"""What `watch` costs on a GPT-2-small-sized network, in time and in memory, beside what people do today.

`python benchmarks/bench_watch.py` prints a table; `pytest benchmarks/bench_watch.py` checks the ratios.
Every ratio is of runs that take turns. Memory is the peak of what torch allocates during a pass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import geodesic_fast
from geodesic_fast.recording import TrackAccumulator, record, watch

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

BATCH, TOKENS, LAYERS, WIDTH = 4, 256, 12, 768
HIDDEN_BYTES = BATCH * TOKENS * WIDTH * 4


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


def time_ratios(rounds: int = 11) -> dict[str, float]:
    """The watched over the plain pass, with plain passes on both sides of each; and the metric parts."""
    model, ids = gpt2_small(head=False), torch.randint(0, 50257, (BATCH, TOKENS))
    watching = watch(model)

    def watched() -> None:
        with watching:
            model(input_ids=ids)

    with torch.no_grad():
        plain = {
            "before": lambda: model(input_ids=ids),
            "watched": watched,
            "after": lambda: model(input_ids=ids),
        }
        passes = take_turns(plain, rounds)
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        parts = take_turns({"eager": lambda: eager_lss(states), "streamed": lambda: streamed(states)}, rounds)
    columns = zip(passes["before"], passes["watched"], passes["after"], strict=True)
    ratios = [2 * w / (a + b) for a, w, b in columns]
    medians = {name: statistics.median(values) for name, values in {**passes, **parts}.items()}
    return {
        "plain_pass_ms": 1e3 * statistics.median(passes["before"] + passes["after"]),
        "watched_over_plain_paired": statistics.median(ratios),
        "eager_metric_ms": 1e3 * medians["eager"],
        "streamed_metric_ms": 1e3 * medians["streamed"],
        "metric_speedup": medians["eager"] / medians["streamed"],
        "streamed_metric_over_plain": medians["streamed"] / medians["before"],
    }


def streamed(states: tuple[Tensor, ...]) -> Tensor:
    accumulator = TrackAccumulator(copy=False)
    for state in states:
        accumulator.push(state)
    return accumulator.close().lss


def memory_ratios(head: bool) -> dict[str, float]:
    """Peaks above the plain pass, in hidden states (batch x tokens x width float32 values)."""
    model, ids = gpt2_small(head), torch.randint(0, 50257, (BATCH, TOKENS))

    def watched() -> Any:
        with watch(model) as w:
            model(input_ids=ids)
        return w.geometry

    def usual() -> Any:
        output = model(input_ids=ids, output_hidden_states=True)
        return eager_lss(output.hidden_states)

    with torch.no_grad():
        model(input_ids=ids)
        plain = peak_bytes(lambda: model(input_ids=ids))
        extra = {"watch": peak_bytes(watched) - plain, "usual": peak_bytes(usual) - plain}
    return {
        "plain_states": plain / HIDDEN_BYTES,
        "watch_extra_states": extra["watch"] / HIDDEN_BYTES,
        "usual_extra_states": extra["usual"] / HIDDEN_BYTES,
    }


def lss_error() -> dict[str, float]:
    """The largest relative error against float64 of the stored states: streamed, stored, eager."""
    model, ids = gpt2_small(head=False), torch.randint(0, 50257, (BATCH, TOKENS))
    with torch.no_grad(), watch(model) as w, record(model) as recording:
        model(input_ids=ids)
    exact = geodesic_fast.lss_reference([state.double() for state in recording.tracks])
    scores = {
        "watch": w.geometry.lss,
        "stored": geodesic_fast.lss(recording.tracks),
        "eager": eager_lss(tuple(recording.tracks)),
    }
    return {f"{name}_error": ((score - exact).abs() / exact).max().item() for name, score in scores.items()}


def test_watch_costs_little_and_errs_no_more():
    """The targets, with room for the noise of a shared machine in the times alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several threads wait for the one that is not running
    times = time_ratios(rounds=5)
    torch.set_num_threads(threads)
    assert times["metric_speedup"] > 5
    assert times["streamed_metric_over_plain"] < 0.04
    memory = memory_ratios(head=True)
    assert memory["watch_extra_states"] < 3
    assert memory["usual_extra_states"] > 4 * memory["watch_extra_states"]
    errors = lss_error()
    assert errors["watch_error"] <= 2 * errors["eager_error"]


def main() -> None:
    """Print the figures of this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = {
        "network": f"GPT-2, {LAYERS} layers, {WIDTH} wide, {BATCH} x {TOKENS} tokens, float32",
        "threads": torch.get_num_threads(),
        "time": time_ratios(args.rounds),
        "memory without the head": memory_ratios(head=False),
        "memory with the head": memory_ratios(head=True),
        "error": lss_error(),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
