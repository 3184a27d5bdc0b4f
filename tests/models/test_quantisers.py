"""Quantisers against brute force in float64, hand-made gradients, and equality over devices."""

import chex
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffjax.models.quantisers
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.quantisers import ema
from diffjax.models.quantisers.base import Quantiser, nearest
from diffjax.models.quantisers.ema import AveragedQuantiser, Usage
from diffjax.models.quantisers.fsq import FiniteScalarQuantiser, bound, codes_of, indices_of
from diffjax.models.quantisers.vq import VectorQuantiser
from diffjax.models.stateful import CODEBOOK, Stateful
from diffjax.randomness import sample_keys
from diffjax.training.step import init_state, make_train_step

RNG = np.random.default_rng(0)
LATENTS = jnp.asarray(RNG.normal(size=(8, 4, 2, 3)), jnp.float32)
CODES = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
KEYS = sample_keys(jax.random.key(1), 0, 8)
BUILT = {
    name: spec.build(name, diffjax.models.quantisers, {"num_codes": 6, "code_dim": 3})
    for name in ("vq", "ema", "fsq(levels=(4,3,2))")
}
numbers = st.floats(-4, 4, width=32)


@pytest.mark.parametrize("quantiser", BUILT.values(), ids=BUILT)
def test_a_code_is_what_its_index_stands_for(quantiser):
    variables = quantiser.init(jax.random.key(0), LATENTS)
    found = quantiser.apply(variables, LATENTS)
    assert (found.codes.shape, found.indices.shape) == (LATENTS.shape, LATENTS.shape[:-1])
    assert found.indices.dtype == jnp.int32
    assert 0 <= int(found.indices.min()) <= int(found.indices.max()) < quantiser.size
    assert quantiser.dim == LATENTS.shape[-1]
    again = quantiser.apply(variables, found.indices, method="look_up")
    chex.assert_trees_all_close(again, found.codes, atol=1e-6)
    twice = quantiser.apply(variables, jnp.arange(quantiser.size), method="look_up")
    assert twice.shape == (quantiser.size, quantiser.dim)


def test_every_kind_is_built():
    assert {name.partition("(")[0] for name in BUILT} == set(spec.names(diffjax.models.quantisers))
    assert all(isinstance(quantiser, Quantiser) for quantiser in BUILT.values())


@given(hnp.arrays(np.float32, (5, 3), elements=numbers),
       hnp.arrays(np.float32, (4, 3), elements=numbers))  # fmt: skip
def test_no_code_is_nearer(latents, codebook):
    squares = ((latents[:, None].astype(np.float64) - codebook) ** 2).sum(-1)
    found = squares[np.arange(5), np.asarray(nearest(*map(jnp.asarray, (latents, codebook))))]
    assert np.all(found <= squares.min(1) + 1e-4)


@pytest.mark.parametrize("legacy", [False, True])
def test_gradients_of_trained_codes(legacy):
    """By hand: 2 w (e - z) / n per number, w beta on one side; the output's own passes whole."""
    quantiser = VectorQuantiser(6, 3, beta=0.25, legacy=legacy)
    slope = np.asarray(RNG.normal(size=LATENTS.shape), np.float32)

    def loss(params, latents):
        found = quantiser.apply({"params": params}, latents)
        return jnp.sum(slope * found.codes) + sum(found.losses), found

    params = {"embedding": {"embedding": CODES}}
    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (of_codes, of_latents), found = gradient(params, LATENTS)
    z, indices = np.asarray(LATENTS, np.float64), np.asarray(found.indices)
    step = 2 * (CODES[indices] - z) / z.size
    codebook_weight, commitment_weight = (0.25, 1) if legacy else (1, 0.25)
    wanted = np.zeros(CODES.shape)
    np.add.at(wanted, indices, codebook_weight * step)
    np.testing.assert_allclose(of_codes["embedding"]["embedding"], wanted, atol=1e-6)
    np.testing.assert_allclose(of_latents, slope - commitment_weight * step, atol=1e-6)
    error = np.mean((CODES[indices] - z) ** 2)
    np.testing.assert_allclose(found.losses.codebook, codebook_weight * error, rtol=1e-5)
    np.testing.assert_allclose(found.losses.commitment, commitment_weight * error, rtol=1e-5)


class Net(Stateful):
    """A quantiser of what is given, and its one trained number."""

    quantiser: Quantiser

    def __call__(self, latents, *, train=False, keys=None):
        return self.quantiser(latents, train=train, keys=keys)


def trained(quantiser, batches, parts=1, accumulate=1, start=None):
    """The model state after a step per batch, on `parts` devices."""
    net = Net(quantiser)

    def loss(params, keys, batch):
        found = net.apply({"params": params["net"]}, batch["z"], train=True, keys=keys)
        return params["scale"] * sum(found.losses), {}

    tx = optax.sgd(0.1)
    axis = "batch" if parts > 1 else None
    step = make_train_step(loss, tx, 0.9, accumulate=accumulate, axis_name=axis)
    if axis:
        step = jax.vmap(step, (None, None, 0), out_axes=None, axis_name=axis)
    tree = {"net": net.init(jax.random.key(0), batches[0])["params"], "scale": jnp.ones(())}
    state = init_state(tree, tx)
    if start is not None:
        state.model_state["net"][CODEBOOK]["quantiser"].update(start)
    step, states = jax.jit(step), []
    for z in batches:
        share = {"z": z.reshape(parts, -1, *z.shape[1:])} if axis else {"z": z}
        state, _ = step(state, jax.random.key(7), share)
        states.append(state.model_state["net"][CODEBOOK]["quantiser"])
    return states


def start_at(codes, count):
    counts = jnp.full(len(codes), count)
    return {"usage": {"counts": counts, "sums": counts[:, None] * codes}}


def test_averaged_codes_by_hand():
    """van den Oord et al. 2017, eq. 6 to 8, in float64 a code at a time."""
    batches = [LATENTS, LATENTS[::-1] * 0.5, LATENTS + 0.3]
    quantiser = AveragedQuantiser(6, 3, decay=0.8)
    states = trained(quantiser, batches, start=start_at(CODES, 1 / 6))
    counts, sums = np.full(6, 1 / 6), np.asarray(CODES, np.float64) / 6
    for batch, state in zip(batches, states, strict=True):
        vectors = np.asarray(batch, np.float64).reshape(-1, 3)
        codebook = sums / counts[:, None]
        chosen = np.argmin(((vectors[:, None] - codebook) ** 2).sum(-1), axis=1)
        for k in range(6):
            own = vectors[chosen == k]
            counts[k] = 0.8 * counts[k] + 0.2 * len(own) / len(vectors)
            sums[k] = 0.8 * sums[k] + 0.2 * own.sum(0) / len(vectors)
        np.testing.assert_allclose(state["usage"]["counts"], counts, rtol=1e-5)
        np.testing.assert_allclose(state["usage"]["sums"], sums, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("parts", "accumulate"), [(4, 1), (1, 2), (2, 2)])
def test_devices_and_pieces_change_no_code_and_no_revival(parts, accumulate):
    quantiser = AveragedQuantiser(40, 3, decay=0.9, revive_below=0.3)
    batches = [LATENTS, LATENTS[::-1] * 0.5, LATENTS + 0.3, LATENTS]
    whole = trained(quantiser, batches)
    for one, other in zip(whole, trained(quantiser, batches, parts, accumulate), strict=True):
        chex.assert_trees_all_close(one, other, rtol=1e-5, atol=1e-7)


def test_dead_codes_are_put_on_vectors_of_the_batch():
    """Far from all vectors a code has none, so that a revival is the one way back."""
    quantiser = AveragedQuantiser(40, 3, decay=0.9, revive_below=0.3)
    far = CODES[jnp.arange(40) % 6] + 1000 * (jnp.arange(40) > 0)[:, None]
    states = trained(quantiser, [LATENTS] * 12, parts=4, start=start_at(far, 1e-4))
    near = [int(np.sum(np.abs(Usage(**s["usage"]).codebook) < 100) // 3) for s in states]
    assert near[0] == 1
    assert near == sorted(near)
    assert near[-1] > 10
    # What the state after the first step makes of dead codes.
    before = Usage(**states[0]["usage"])
    after = ema.revived(before, ema.Candidates(**states[0]["candidates"]), 0.3)
    moved = np.asarray(jnp.abs(after.codebook - before.codebook).max(1) > 1e-3)
    assert 0 < moved.sum() < 40
    vectors = np.asarray(LATENTS).reshape(-1, 1, 3)
    assert np.abs(vectors - np.asarray(after.codebook)[moved]).max(-1).min(0).max() < 1e-5
    assert np.all(np.asarray(before.counts)[moved] < 0.3 * before.counts.mean())
    np.testing.assert_allclose(after.counts[moved], before.counts.mean(), rtol=1e-6)


@pytest.mark.parametrize("count", [8, 512])
def test_candidates_are_vectors_that_are_alone_in_their_slots(count):
    """Whatever the number of vectors; about 4 / ln 2 slots hold just one."""
    singles = []
    for seed in range(20):
        keys = sample_keys(jax.random.key(seed), 0, count)
        z = jax.random.normal(keys[0], (count, 2, 4, 3)) + 50
        candidates = ema.drawn(keys, z)
        np.testing.assert_allclose(candidates.counts.sum(), 1, rtol=1e-5)
        single = np.asarray(ema.alone(candidates))
        vectors = (candidates.sums / candidates.counts[:, None])[single]
        near = np.abs(np.asarray(z).reshape(-1, 1, 3) - np.asarray(vectors)).max(-1).min(0)
        assert np.mean(near < 1e-4) > 0.7
        held = np.round(np.asarray(candidates.counts) * count * 8)
        assert np.all(single[held == 1])
        assert not np.any(single[held == 0])
        assert np.sum(single & (held > 1)) <= 1
        singles.append(single.sum())
    assert 3 < np.mean(singles) < 9


def test_a_code_without_vectors_stays_where_it_is():
    usage = Usage(jnp.asarray([0.5, 0.5]), jnp.asarray([[0.5], [5.0]]))
    z = jnp.ones((4, 1))

    def step(_, usage):
        return ema.averaged(ema.lasting(usage), z, nearest(z, usage.codebook), 0.5)

    usage = jax.jit(lambda usage: jax.lax.fori_loop(0, 500, step, usage))(usage)
    np.testing.assert_allclose(usage.codebook, [[1], [10]], rtol=1e-5)


def test_no_step_leaves_a_code_of_less_usage_than_its_average_needs():
    quantiser = AveragedQuantiser(6, 3, decay=0.5)
    (state,) = trained(quantiser, [LATENTS], start=start_at(CODES + 1000, 1e-30))
    least = float(state["usage"]["counts"].min())
    np.testing.assert_allclose(least, 0.5 * ema.LEAST, rtol=1e-5)


def test_an_evaluation_moves_nothing_and_needs_no_keys():
    quantiser = AveragedQuantiser(6, 3, revive_below=0.1)
    tree = Net(quantiser).init(jax.random.key(0), LATENTS)
    found = Net(quantiser).apply(tree, LATENTS)
    assert found.codes.shape == LATENTS.shape
    with pytest.raises(UserError, match="give keys, one per sample"):
        Net(quantiser).apply(tree, LATENTS, train=True)


LEVELS = (8, 5, 2, 4)


def test_bounded_numbers_round_to_each_level_and_no_other():
    z = jnp.linspace(-20, 20, 4001)[:, None].repeat(len(LEVELS), -1)
    for channel, count in enumerate(LEVELS):
        found = np.unique(np.round(np.asarray(bound(z, LEVELS))[:, channel]))
        np.testing.assert_array_equal(found, np.arange(-(count // 2), (count + 1) // 2))
    # Without rounding an odd number of levels is a tanh: Mentzer et al. 2023, sec. 3.1.
    wanted = 2 * 0.999 * np.tanh(np.asarray(z, np.float64)[:, 1])
    np.testing.assert_allclose(bound(z, LEVELS)[:, 1], wanted, atol=1e-6)
    np.testing.assert_allclose(bound(jnp.zeros(4), LEVELS)[jnp.array([0, 1, 3])], 0, atol=0.02)


def test_codes_and_indices_are_one_to_one():
    indices = jnp.arange(np.prod(LEVELS))
    codes = codes_of(indices, LEVELS)
    np.testing.assert_array_equal(indices_of(codes, LEVELS), indices)
    assert len(np.unique(codes, axis=0)) == len(indices)
    assert codes.min() == -1
    assert codes.max() == 1
    # The first channel changes fastest, by one of its 8 levels, which are a quarter apart.
    np.testing.assert_allclose(np.diff(codes[:8, 0]), 0.25)
    np.testing.assert_allclose(codes[:8, 1:], -1)


def test_rounding_passes_the_gradient():
    quantiser = FiniteScalarQuantiser((8, 5, 5))
    gradient = jax.grad(lambda z: jnp.sum(quantiser.apply({}, z).codes))(LATENTS)
    z = np.asarray(LATENTS, np.float64)
    shift = np.tan(0.5 / (3.5 * 0.999))
    wanted = np.stack([
        3.5 * 0.999 / 4 / np.cosh(z[..., 0] + shift) ** 2,
        *(0.999 / np.cosh(z[..., i]) ** 2 for i in (1, 2)),
    ], axis=-1)  # fmt: skip
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vq(num_codes=0)", "num_codes must be above 0"),
        ("vq(beta=-1)", "beta must be 0 or more"),
        ("ema(code_dim=0)", "code_dim must be above 0"),
        ("ema(decay=1)", "decay must be between 0 and 1"),
        ("ema(revive_below=1)", "choose 0"),
        ("fsq(levels=())", "2 levels or more"),
        ("fsq(levels=(8,1))", "2 levels or more"),
        ("fsq(levels=(4096,4096,4096))", "fewer than 2"),
    ],
)
def test_refused(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.models.quantisers)
