"""How far an optimizer moves a parameter."""

import jax.numpy as jnp
import numpy as np

from diffjax.training.optimizers import make_optimizer, two_time_scales


def test_two_rates_which_climb_and_stay():
    """With a constant gradient Adam moves by the rate itself, however large the gradient is."""
    tx = two_time_scales(0.01, 0.04, warmup_steps=3)
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
