"""How far an optimizer moves a parameter."""

import jax.numpy as jnp
import numpy as np

from diffjax.training.optimizers import two_time_scales


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
