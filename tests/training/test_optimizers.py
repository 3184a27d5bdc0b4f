"""How far an optimizer moves a parameter."""

import jax.numpy as jnp
import numpy as np

from diffjax.training.optimizers import for_contrast, make_optimizer, two_time_scales


def test_two_rates_which_climb_and_stay():
    """With a constant gradient Adam moves by the rate itself, however large the gradient is."""
    tx = two_time_scales({"generator": 0.01, "discriminator": 0.04}, warmup_steps=3)
    params = {"generator": jnp.zeros(()), "discriminator": jnp.zeros(())}
    grads = {"generator": jnp.asarray(1e-2), "discriminator": jnp.asarray(-1e4)}
    state, moves = tx.init(params), []
    for _ in range(6):
        updates, state = tx.update(grads, state, params)
        moves.append((-float(updates["generator"]), float(updates["discriminator"])))
    climb = np.minimum(np.arange(1, 7) / 4, 1)
    np.testing.assert_allclose(moves, np.outer(climb, [0.01, 0.04]), rtol=1e-4)


def test_a_clip_of_zero_clips_nothing():
    """Adam's first step is its rate whatever the gradient, and a norm clipped to 0 leaves none."""
    params = {"w": jnp.zeros(3)}
    moves = []
    for clip in (0.0, 1e9):
        tx = make_optimizer(0.1, 10, grad_clip=clip)
        updates, _ = tx.update({"w": jnp.asarray([1.0, -20.0, 300.0])}, tx.init(params), params)
        moves.append(np.asarray(updates["w"]))
    np.testing.assert_array_equal(*moves)
    np.testing.assert_allclose(np.abs(moves[0]), 0.1, rtol=1e-4)


def test_matrices_decay_and_the_temperature_stays_within_its_bound():
    """Without a gradient a matrix shrinks by rate times decay, and nothing else moves."""
    tx = for_contrast(0.1, 10, weight_decay=0.5, highest=1.0)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "logit_scale": jnp.asarray(0.99)}
    still = {name: jnp.zeros_like(value) for name, value in params.items()}
    updates, _ = tx.update(still, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)
    np.testing.assert_array_equal(updates["logit_scale"], 0)
    upwards = {**still, "logit_scale": jnp.asarray(-1.0), "bias": jnp.full(2, -1.0)}
    updates, _ = tx.update(upwards, tx.init(params), params)
    np.testing.assert_allclose(updates["logit_scale"], 0.01, rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], 0.1, rtol=1e-4)
