# SPDX-License-Identifier: MIT
"""One problem of several processes: the answer of one process alone, and an end of the call on all."""

import itertools
import os
import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import Processes
from transport_problems import DTYPES, FAMILIES

import geodesic_fast
from geodesic_fast import GeodesicGap, _processes, geodesic_bound_summary, geodesic_gap, nearest_track, ots
from geodesic_fast.transport import memory, points, potentials, products

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_thread")]
MOST = 4


BLOCK_ROWS = 32  # so that problems which take no time are shared out


def set_block_rows(_, __, rows):
    points._BLOCK_ROWS = rows


@pytest.fixture(scope="module")
def processes():
    found, usual = Processes(MOST), points._BLOCK_ROWS
    found.call(set_block_rows, MOST, BLOCK_ROWS)
    points._BLOCK_ROWS = BLOCK_ROWS
    yield found
    points._BLOCK_ROWS = usual
    found.close()


def shards(rng, m, size):
    """Return who holds which of m points: random shares, empty ones, or one row for all but the last."""
    cuts = [np.sort(rng.integers(0, m + 1, size - 1)), np.arange(1, size), np.zeros(size - 1, int)]
    ends = [0, *cuts[rng.choice(3, p=[0.6, 0.2, 0.2])].tolist(), m]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def problem(seed, m, d, dtype):
    family = FAMILIES[seed % len(FAMILIES)]
    x, y = (torch.from_numpy(np.ascontiguousarray(p)) for p in family(np.random.default_rng(seed), m, d))
    return x.to(dtype), y.to(dtype)


def score(group, rank, shares, x, y, options):
    return ots(x[shares[rank]], y[shares[rank]], group=group, **options)


# The same answer.


@pytest.mark.parametrize("seed", range(2 * len(FAMILIES)))
def test_the_answer_is_that_of_one_process_to_the_last_bit(seed, processes):
    rng = np.random.default_rng(seed)
    d, method = (int(rng.choice([1, 3, 17])), "tiles") if seed % 2 else (int(rng.choice([2, 30])), "stored")
    x, y = problem(seed, int(rng.integers(90, 160)), d, DTYPES[2 + seed % 2 if seed % 15 == 9 else seed % 4])
    alone = ots(x, y, method=method)
    assert alone.certified
    size = 1 + seed // 2 % MOST
    for found in processes.call(score, size, shards(rng, len(x), size), x, y, {"method": method}):
        assert found == alone


@pytest.mark.parametrize(("method", "m"), [("auto", 700), ("tiles", 1100), ("stored", 1100)])
def test_more_points_than_small_problems_have(method, m, processes):
    x, y = problem(1, m, 20, torch.float32)
    alone = ots(x, y, method=method)
    assert 0 < alone.score < 1
    for found in processes.call(score, 3, shards(np.random.default_rng(m), m, 3), x, y, {"method": method}):
        assert found == alone
        assert found.record["passes"] == alone.record["passes"]


def set_sampled_rows(_, __, rows):
    potentials._SAMPLED_ROWS = rows


@pytest.mark.parametrize("method", ["tiles", "stored"])
def test_temperatures_that_a_sample_of_the_rows_is_enough_for(method, processes, monkeypatch):
    usual, shares = potentials._SAMPLED_ROWS, shards(np.random.default_rng(0), 900, 3)
    x, y = problem(1, 900, 40, torch.float32)
    whole = ots(x, y, method=method)
    monkeypatch.setattr(potentials, "_SAMPLED_ROWS", 64)
    alone = ots(x, y, method=method)
    processes.call(set_sampled_rows, MOST, 64)
    found = processes.call(score, 3, shares, x, y, {"method": method})
    processes.call(set_sampled_rows, MOST, usual)
    assert found == [alone] * 3
    assert alone.certified
    assert not torch.equal(alone.potentials[1], whole.potentials[1])  # found in another way
    assert alone.score == whole.score
    assert torch.equal(alone.permutation, whole.permutation)


def test_blocks_of_the_usual_size(processes, monkeypatch):
    x, y = problem(1, 2500, 8, torch.float32)
    monkeypatch.setattr(points, "_BLOCK_ROWS", 1024)
    alone = ots(x, y)
    processes.call(set_block_rows, MOST, 1024)
    found = processes.call(score, 2, shards(np.random.default_rng(0), len(x), 2), x, y, {})
    processes.call(set_block_rows, MOST, BLOCK_ROWS)
    assert found == [alone, alone]


@pytest.mark.parametrize("method", ["auto", "dense"])
def test_small_problems_are_solved_by_one_for_all(method, processes):
    for seed, m in enumerate((1, 2, 60)):
        x, y = problem(seed, m, 3, torch.float64)
        for found in processes.call(
            score, 4, shards(np.random.default_rng(seed), m, 4), x, y, {"method": method}
        ):
            assert found == ots(x, y, method=method)


def again(group, rank, shares, x, y, given):
    options = {"method": "tiles", "potentials": given, "group": group}
    found = ots(x[shares[rank]], y[shares[rank]], **options)
    return found, ots(torch.stack([x, y])[:, shares[rank]], **options)


def test_potentials_are_of_all_points_and_tracks_are_taken(processes):
    x, y = problem(1, 300, 5, torch.float32)
    start = ots(x, y, method="tiles")
    alone = ots(x, y, method="tiles", potentials=start.potentials)
    shares = shards(np.random.default_rng(0), 300, 2)
    for found in processes.call(again, 2, shares, x, y, start.potentials):
        assert found == (alone, alone)
        assert found[0].record["iterations"] < start.record["iterations"]


def other_metrics(group, rank, shares, tracks, labels):
    own, names = tracks[:, shares[rank]], labels[shares[rank]]
    return (
        nearest_track(own, group=group),
        nearest_track(list(own), labels=names, group=group),
        geodesic_bound_summary(own, group=group),
        geodesic_gap(own, group=group),
        geodesic_gap(own, target=tracks[0][shares[rank]], times=[0.0, 1.0, 4.0], group=group),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_metrics_of_all_pairs(dtype, processes):
    rng = np.random.default_rng(3)
    tracks, labels = torch.randn(3, 130, 6).to(dtype), torch.from_numpy(rng.integers(0, 3, 130))
    tracks[0, 7], tracks[:, 11] = tracks[0, 90], tracks[:, 12]
    nan = tracks.clone()
    nan[1, 5, 0] = torch.nan
    size = 2 + DTYPES.index(dtype) % 2
    shares = shards(rng, 130, size)
    found = processes.call(other_metrics, size, shares, tracks, labels)
    for rank, (nearest, labelled, summary, gap, aimed) in enumerate(found):
        alone = nearest_track(tracks), nearest_track(tracks, labels=labels)
        for ours, whole in zip((nearest, labelled), alone, strict=True):
            assert ours == type(ours)(*(each[shares[rank]] for each in whole))
        assert summary == geodesic_bound_summary(tracks)
        for ours, whole in ((gap, geodesic_gap(tracks)), (aimed, aimed_alone(tracks))):
            assert ours.certified
            torch.testing.assert_close(ours[:-1], whole[:-1], rtol=1e-12, atol=1e-12)
        assert GeodesicGap(*gap) == GeodesicGap(*found[0][3])


def aimed_alone(tracks):
    return geodesic_gap(tracks, target=tracks[0], times=[0.0, 1.0, 4.0])


# An end on all.


def wrong(group, rank, case):
    x = torch.randn(200, 3)
    options = {"method": "tiles"}
    match case:
        case "NaN" if rank == 1:
            x[5, 0] = torch.nan
        case "width" if rank == 1:
            x = x[:, :2]
        case "dtype" if rank == 1:
            x = x.double()
        case "method" if rank == 1:
            options = {"method": "stored"}
        case "empty":
            x = x[:0]
        case "memory" if rank == 1:
            options |= {"memory_budget": 1000}
        case "potentials":
            options |= {"potentials": (x[:, 0], x[:, 0])}
        case "batch":
            options |= {"batch_dims": 1}
        case "no tensor" if rank == 1:
            x = "x"
        case "other call" if rank == 1:
            return nearest_track([x, x], group=group)
    return ots(x, x, group=group, **options)


@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("NaN", "ValueError", "process 1 of 3: x must be finite, got NaN or inf first in row 5"),
        ("width", "ValueError", "3 features in torch.float32 on the CPU on process 0 and 2 features"),
        ("dtype", "ValueError", "torch.float32 on the CPU on process 0 and 3 features in torch.float64"),
        ("method", "ValueError", "got 'stored' without potentials and 'tiles' without potentials"),
        ("empty", "ValueError", "x must not be empty on all processes"),
        ("memory", "MemoryError", "memory_budget must hold method 'tiles' for 200 points"),
        ("potentials", "ValueError", r"potentials must be (u, v) of shape (600,) each"),
        ("batch", "ValueError", "batch_dims must be 0 with a group, got 1"),
        ("no tensor", "TypeError", "process 1 of 3: x must be a torch.Tensor, got str"),
        ("other call", "RuntimeError", "the same calls in the same order"),
    ],
)
def test_what_is_wrong_on_one_process_is_said_on_all(case, error, words, processes):
    found = processes.call(wrong, 3, case)
    assert {kind for kind, _ in found} == {error}
    assert len({said for _, said in found}) == 1
    assert words in found[0][1]


def without_room(group, rank, x):
    whole = memory.free_memory
    if rank == 1:
        memory.free_memory = lambda _: 3000
    try:
        return ots(x, x, group=group)
    finally:
        memory.free_memory = whole


def test_columns_that_do_not_fit_on_one_process_are_refused_on_all(processes):
    for kind, words in processes.call(without_room, 2, torch.randn(400, 10)):  # the same on both
        assert kind == "MemoryError"
        assert words.startswith("process 1 of 2: y of all processes must fit on each of them: 400 points of")


class Broken:
    """The exchanges of a process that fails before one of them."""

    def __init__(self, before, error):
        self.before, self.error, self.count = before, error, 0

    def __enter__(self):
        self.whole = _processes.Processes._words
        _processes.Processes._words = lambda *args: self.words(*args)
        return self

    def __exit__(self, *_):
        _processes.Processes._words = self.whole

    def words(self, own, status, *rest):
        self.count += status == 0
        if status == 0 and self.count == self.before:
            raise self.error
        return self.whole(own, status, *rest)


def fails(group, rank, who, before, error, x, y):
    with Broken(before if rank == who else 0, error) as exchanges:
        try:
            score = ots(x, y, method="tiles", group=group).score
            return exchanges.count, "score", str(score)
        except BaseException as caught:
            return exchanges.count, type(caught).__name__, str(caught)


def test_no_process_waits_for_one_that_failed_before_any_exchange(processes):
    x, y = problem(1, 40, 20, torch.float32)
    [whole, *_] = processes.call(fails, 2, 0, 0, None, x, y)
    assert whole[1] == "score"
    assert whole[0] > 40
    for before in range(1, whole[0] + 1):
        who = before % 2
        error, kind, said = (
            (MemoryError("all is full"), "MemoryError", "all is full"),
            (KeyboardInterrupt(), "RuntimeError", "ended by KeyboardInterrupt"),
        )[before // 2 % 2]
        found = processes.call(fails, 2, who, before, error, x, y)
        told = kind, f"process {who} of 2: {said}"
        assert found[1 - who][1:] == told
        assert found[who][1:] == (told if kind == "MemoryError" else ("KeyboardInterrupt", ""))


def interrupted(group, rank, x, y, number):
    whole, count = dist.broadcast, [0]

    def broadcast(*args, **kwargs):
        count[0] += 1
        if rank == 1 and count[0] == number:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(*args, **kwargs)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    dist.broadcast = broadcast
    try:
        return ots(x, y, method="tiles", group=group)
    finally:
        dist.broadcast = whole


@pytest.mark.parametrize("number", [1, 6, 15])
def test_ctrl_c_in_the_middle_of_an_exchange_ends_the_call_on_all(number, processes):
    x, y = problem(1, 40, 3, torch.float32)
    found = processes.call(interrupted, 2, x, y, number)
    assert found == [
        ("RuntimeError", "process 1 of 2: ended by KeyboardInterrupt"),
        ("KeyboardInterrupt", ""),
    ]


class Looks:
    """A clock that stands still but for one second each time it is looked at."""

    seconds = 0.0

    def monotonic(self):
        self.seconds += 1
        return self.seconds


def late(group, rank, who, seconds, x, y):
    whole, clocks = products.time, (geodesic_fast.metrics.ots, products)
    clock = Looks()
    for module in clocks if rank == who else ():
        module.time = clock
    try:
        share = slice(rank * 100, rank * 100 + 100)
        return ots(x[share], y[share], method="stored", time_budget=seconds, group=group)
    finally:
        for module in clocks:
            module.time = whole


def test_a_budget_that_one_has_spent_ends_the_search_on_all_with_one_interval(processes):
    x, y = problem(1, 300, 20, torch.float32)
    full, told = ots(x, y, method="stored"), 0
    for seconds in range(1, 46, 4):
        first, *others = processes.call(late, 3, seconds % 3, float(seconds), x, y)
        assert all(other == first for other in others)
        assert first.score_lower <= full.score <= first.score_upper
        assert first.optimal_cost >= full.optimal_cost
        told += not first.certified and first.potentials is not None
    assert told > 3


class Deadly(Broken):
    """The exchanges of a process that is killed before one of them."""

    def words(self, own, status, *rest):
        self.count += 1
        if self.count == self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.whole(own, status, *rest)


def dies(group, rank, x, y):
    with Deadly(20 if rank == 1 else 0, None):
        return ots(x, y, method="tiles", group=group)


def test_a_killed_process_ends_the_others():
    pair = Processes(2)
    try:
        [(kind, words)] = pair.call(dies, 2, *problem(1, 40, 3, torch.float32))
    finally:
        pair.close()
    assert kind == "RuntimeError"
    assert "closed" in words.lower() or "reset" in words.lower()


def test_says_what_no_group_is():
    with pytest.raises(TypeError, match=r"group must be a torch\.distributed\.ProcessGroup, got str"):
        ots(torch.zeros(4, 3), torch.zeros(4, 3), group="all")


def of_one_alone(group, rank, name, tracks):
    return getattr(geodesic_fast, name)(tracks.requires_grad_(rank == 1), group=group)


@pytest.mark.parametrize("name", ["nearest_track", "geodesic_gap"])
def test_a_gradient_is_not_cut_in_silence(name, processes):
    told = "process 1 of 2: tracks must ask for no gradient with a group, got one that does: call"
    for kind, words in processes.call(of_one_alone, 2, name, torch.randn(3, 20, 2)):
        assert kind == "NotImplementedError"
        assert words.startswith(told)
