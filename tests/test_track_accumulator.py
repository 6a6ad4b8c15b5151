# SPDX-License-Identifier: MIT
import copy
import pickle

import numpy as np
import pytest
import torch
from assert_accurate import assert_accurate
from scipy.stats import directional_stats

from geodesic_fast import TrackGeometry, reference, track_geometry
from geodesic_fast.recording import TrackAccumulator
from geodesic_fast.recording import accumulator as definition

ACCURACY = {torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6, torch.float64: 1e-13}


def pushed(layers, **options) -> TrackGeometry:
    accumulator = TrackAccumulator(**options)
    for layer in layers:
        accumulator.push(layer)
    return accumulator.geometry


def awkward_tracks(dtype: torch.dtype, points: int = 9, width: int = 17) -> torch.Tensor:
    """Tracks (points, 3, 5, width) with zero-length steps, NaN, inf, and huge and tiny coordinates."""
    x = torch.randn(points, 3, 5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[4, 0] = x[3, 0]
    x[1, 1, 1] = x[0, 1, 1]
    x[2:, 0, 4] = x[1, 0, 4]
    x[:, 2, 2] = x[:1, 2, 2]
    if dtype != torch.float16:
        x[:, 1, 3] *= 1e30
        x[:, 1, 4] *= 1e-30
    x = x.to(dtype)
    x[5, 2, 0, 3], x[6, 2, 1, 3] = torch.nan, torch.inf
    return x


def assert_same_geometry(got: TrackGeometry, expected: TrackGeometry, tolerance: float) -> None:
    for name, a, b in zip(got._fields, got, expected, strict=True):
        a, b = a.double(), b.to(a.dtype).double()
        close = (a - b).abs() <= tolerance * b.abs().clamp(min=1.0 if "path" not in name else 0.0)
        same = close | (a == b) | (a.isnan() & b.isnan())
        assert same.all(), f"{name}: {a[~same]} for {b[~same]}"


@pytest.mark.parametrize("zero_step", ["skip", "keep", "propagate"])
@pytest.mark.parametrize("dtype", list(ACCURACY), ids=str)
@pytest.mark.parametrize("engine", [True, False], ids=["engine", "plain torch"])
def test_matches_the_stored_track(monkeypatch, engine, dtype, zero_step):
    if not engine:
        monkeypatch.setattr(definition, "has_engine", lambda device: False)
    x = awkward_tracks(dtype)
    got = pushed(x, zero_step=zero_step)
    assert got.lss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.lss.shape == (3, 5)
    finite = x.isfinite().all(-1).all(0)
    expected = reference.track_geometry(x.double().where(finite[..., None], torch.nan), zero_step=zero_step)
    assert_same_geometry(got, expected, ACCURACY[dtype])


@pytest.mark.parametrize("bend", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("width", [1, 3, 16, 64, 65, 257])
def test_keeps_the_accuracy_rule(width, bend):
    """From nearly straight tracks to tangled ones. The worst of these is a matter of luck, no mean is."""
    generator = torch.Generator().manual_seed(3)
    steps = torch.randn(1, 300, width, generator=generator) + bend * torch.randn(
        9, 300, width, generator=generator
    )
    x = steps.cumsum(0)
    plain, exact = reference.track_geometry(x), reference.track_geometry(x.double())
    plain = plain._replace(turning_angle=angle_by_cosines(x))
    for name, got, *others in zip(exact._fields[:-1], pushed(x)[:-1], plain, exact, strict=False):
        condition = exact.lss.where(exact.lss.isfinite(), 1.0) if name.startswith("lss") else 1.0
        assert_accurate(got, *others, condition=condition, name=name)
        ours, formula = (mean_error(value, others[1], condition) for value in (got, others[0]))
        assert ours <= 1.25 * formula + 2.0**-27, f"{name}: mean error {ours:.3g}, formula {formula:.3g}"


def angle_by_cosines(x: torch.Tensor) -> torch.Tensor:
    """The usual arccos of cosines: directions held in 24 bits are no better than that at small angles."""
    v = x.diff(dim=0)
    return torch.nn.functional.cosine_similarity(v[1:], v[:-1], dim=-1).clamp(-1, 1).arccos().mean(0)


def mean_error(value: torch.Tensor, truth: torch.Tensor, condition: torch.Tensor | float) -> float:
    """Of the finite values, relative to the largest of them, over how much the formula magnifies rounding."""
    finite = truth.isfinite()
    scale = truth[finite].abs().max().item() or 1.0
    error = (value.double() - truth).abs() / scale / condition
    return error[finite].mean().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_last_direction_moves_between_the_ways_to_hold_it(monkeypatch, dtype):
    """Two planes of bits on the CPU, rows elsewhere."""
    x = awkward_tracks(dtype)
    state = definition.new_state(x[0].flatten(0, 1), x[1].flatten(0, 1))
    for layer in x[1:5]:
        definition.update(state, layer.flatten(0, 1), "skip")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(definition, "has_engine", lambda device: False)
        elsewhere.setattr(definition, "_direction_rows", lambda rows: (torch.empty_like(rows), rows[:0]))
        state = definition.hold_anew(state)
        assert state.direction.dtype == dtype
        for layer in x[5:7]:
            definition.update(state, layer.flatten(0, 1), "skip")
    state = definition.hold_anew(state)
    assert state.direction.dtype == (torch.int16 if dtype == torch.float32 else dtype)
    for layer in x[7:]:
        definition.update(state, layer.flatten(0, 1), "skip")
    finite = x.isfinite().all(-1).all(0)
    expected = reference.track_geometry(x.double().where(finite[..., None], torch.nan).flatten(1, 2))
    assert_same_geometry(definition.finish(state, "skip"), expected, ACCURACY[dtype])


def test_second_step_starts_where_the_first_ended():
    # A recursion that measures the second step from the sum of unit steps instead of from x^(1) gives 2.381.
    x = np.random.default_rng(0).normal(size=(7, 40, 12))
    resultant = directional_stats(np.diff(x, axis=0), axis=0).mean_resultant_length
    got = pushed(torch.from_numpy(x)).lss
    np.testing.assert_allclose(got, 1 / resultant, rtol=1e-12)


def test_known_answers():
    line = torch.arange(5.0).reshape(5, 1, 1) * torch.tensor([[3.0, 4.0]])
    assert pushed(line).lss.item() == pytest.approx(1, abs=1e-7)
    assert pushed(line).path_length.item() == 20
    corner = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[2.0, 0.5]]], dtype=torch.float64)
    geometry = pushed(corner)
    assert geometry.lss.item() == pytest.approx(2**0.5, rel=1e-15)
    assert geometry.turning_angle.item() == pytest.approx(torch.pi / 2, rel=1e-15)


@pytest.mark.parametrize("engine", [True, False], ids=["engine", "plain torch"])
def test_steps_to_and_fro_cancel_exactly(monkeypatch, engine):
    if not engine:
        monkeypatch.setattr(definition, "has_engine", lambda device: False)
    there_and_back = torch.tensor([0.0, 3.7, 0.1, 5.3, 5.1]).reshape(5, 1, 1) * torch.tensor(
        [[1.0, 0.0, 0.0]]
    )
    geometry = pushed(there_and_back)
    assert geometry.lss.item() == torch.inf
    assert geometry.turning_angle.item() == pytest.approx(torch.pi, rel=1e-7)


def test_engine_may_hand_over_to_plain_torch(monkeypatch):
    x = awkward_tracks(torch.float32)
    accumulator = TrackAccumulator()
    for layer in x[:5]:
        accumulator.push(layer)
    monkeypatch.setattr(definition, "has_engine", lambda device: False)
    for layer in x[5:]:
        accumulator.push(layer)
    finite = x.isfinite().all(-1).all(0)
    expected = reference.track_geometry(x.double().where(finite[..., None], torch.nan))
    assert_same_geometry(accumulator.geometry, expected, 2e-6)


def test_numbers_are_there_after_every_push():
    x = awkward_tracks(torch.float32)
    accumulator = TrackAccumulator()
    accumulator.push(x[0])
    for points in range(2, len(x) + 1):
        accumulator.push(x[points - 1])
        # sums in another order: the accuracy rule allows each of the two 2 eps
        assert_same_geometry(
            accumulator.geometry, track_geometry(x[:points]), 4 * torch.finfo(torch.float32).eps
        )


def test_long_tracks_stay_exact():
    x = torch.randn(400, 6, 33, generator=torch.Generator().manual_seed(1)).cumsum(0)
    assert_same_geometry(pushed(x), reference.track_geometry(x.double()), 4e-6)


def test_layouts_and_dtypes_may_change_from_push_to_push():
    x = torch.randn(5, 4, 6, 8, generator=torch.Generator().manual_seed(2)).bfloat16().float()
    layers = [x[0], x[1].bfloat16(), x[2].transpose(0, 1).contiguous().transpose(0, 1), x[3].double()]
    layers.append(torch.cat([x[4], x[4]], -1)[..., :8])
    assert_same_geometry(pushed(layers), reference.track_geometry(x.double()), 2e-6)
    assert_same_geometry(pushed(layers, copy=False), reference.track_geometry(x.double()), 2e-6)


def test_mask_leaves_padding_out():
    x = torch.randn(5, 2, 3, 4)
    x[2, 1, 2] = torch.nan
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    got = pushed(x, mask=mask)
    assert got.lss.shape == (5,)
    assert torch.equal(got.lss, pushed(x).lss[mask.bool()])
    assert got.lss.isfinite().all()


def test_holds_copies_or_refuses_what_changed():
    x = torch.randn(4, 6, 8)
    expected = pushed(x)
    copying, buffer = TrackAccumulator(), torch.empty(6, 8)
    for layer in x:
        copying.push(buffer.copy_(layer))
    assert torch.equal(copying.geometry.lss, expected.lss)
    sharing = TrackAccumulator(copy=False)
    sharing.push(buffer.copy_(x[0]))
    with pytest.raises(RuntimeError, match="changed in place: pass copy=True"):
        sharing.push(buffer.copy_(x[1]))
    late = TrackAccumulator(copy=False)
    first = x[0].clone()
    late.push(first)
    late.push(x[1])
    first.add_(1)
    with pytest.raises(RuntimeError, match="the first state must stay as it was"):
        _ = late.geometry


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (1, 8)])
@pytest.mark.parametrize("apart", [1, 2])
def test_holds_states_of_no_row_and_of_one_row_themselves(shape, apart):
    x = [torch.randn(*shape, apart)[..., 0] for _ in range(4)]  # features that lie `apart` values apart
    assert torch.equal(pushed(x, copy=False).lss, pushed([state.clone() for state in x]).lss)


def test_works_on_tensors_of_inference_mode_and_leaves_the_graph_alone():
    x = torch.randn(3, 2, 8, requires_grad=True)
    assert not pushed(list(x)).lss.requires_grad
    with torch.inference_mode():
        layers = [layer * 1.0 for layer in x]
        got = pushed(layers, copy=False)
    assert torch.equal(got.lss, pushed(x.detach()).lss)


def test_memory_does_not_grow_with_depth():
    accumulator = TrackAccumulator(copy=False)
    for _ in range(20):
        accumulator.push(torch.randn(8, 16))
    held = accumulator._state
    a_state = 8 * 16 * 4
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in vars(held).values()}
    sums = definition.SUM_ROWS * 8 * 8
    assert sum(tensors.values()) == 3.75 * a_state + sums  # first, last, sum of directions, last direction


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_cpu_and_cuda_agree_and_layers_may_move(dtype):
    x = awkward_tracks(dtype)
    assert_same_geometry(pushed(x.cuda()), reference.track_geometry(x.double()), 10 * ACCURACY[dtype])
    moving = [layer.cuda() if index > 3 else layer for index, layer in enumerate(x)]
    assert_same_geometry(pushed(moving), reference.track_geometry(x.double()), 10 * ACCURACY[dtype])


def test_empty_batch_gives_an_empty_result():
    assert pushed(torch.randn(3, 0, 4)).lss.shape == (0,)


def test_zero_step_raise_names_the_step():
    x = torch.randn(4, 3, 5)
    x[2, 1] = x[1, 1]
    accumulator = TrackAccumulator(zero_step="raise")
    accumulator.push(x[0])
    accumulator.push(x[1])
    with pytest.raises(ValueError, match="got 1 of them at step 2"):
        accumulator.push(x[2])
    without = torch.tensor([True, False, True])  # padding may stand still
    assert pushed(x, zero_step="raise", mask=without).lss.shape == (2,)


@pytest.mark.parametrize(
    ("states", "error", "sentence"),
    [
        ([torch.zeros(2, 3), torch.zeros(2, 4)], ValueError, "one accumulator for each width"),
        ([torch.zeros(2, 3).long()], TypeError, "state must be float16"),
        ([[1.0, 2.0]], TypeError, "state must be a torch.Tensor"),
        ([torch.tensor(1.0)], ValueError, "the last axis holds the features"),
    ],
)
def test_says_what_is_wrong(states, error, sentence):
    with pytest.raises(error, match=sentence):
        pushed(states)


def test_says_when_there_is_no_step_yet():
    accumulator = TrackAccumulator()
    accumulator.push(torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="at least 2 points, got 1"):
        _ = accumulator.geometry
    accumulator.push(torch.ones(2, 3))
    assert accumulator.geometry.lss.tolist() == [1, 1]
    accumulator.reset()
    with pytest.raises(RuntimeError, match="got 0"):
        _ = accumulator.geometry


@pytest.mark.parametrize("mask", [torch.ones(3), torch.tensor([0.0, -1e9])])
def test_refuses_masks_of_another_kind(mask):
    with pytest.raises(ValueError, match="mask must"):
        pushed(torch.randn(3, 2, 4), mask=mask)


def test_a_copy_goes_on_by_itself():
    layers = torch.randn(6, 4, 8, dtype=torch.float64)
    tracks = TrackAccumulator()
    for layer in layers[:4]:
        tracks.push(layer)
    for twin in (copy.deepcopy(tracks), pickle.loads(pickle.dumps(tracks))):
        for layer in layers[4:]:
            twin.push(layer)
        torch.testing.assert_close(twin.geometry.lss, reference.lss(layers), rtol=1e-12, atol=0)
    assert tracks.points == 4
