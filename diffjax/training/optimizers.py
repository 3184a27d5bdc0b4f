"""Adam in two forms: for one network, and for two that play against each other."""

import optax


def make_optimizer(
    learning_rate: float, steps: int, *, warmup_steps: int = 0, grad_clip: float = 1.0
) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's global norm; grad_clip 0 clips nothing.

    The rate climbs in a line over warmup_steps and falls along a cosine to 0 at `steps`.
    """
    warmup_steps = min(warmup_steps, steps - 1)
    rate = optax.warmup_cosine_decay_schedule(
        learning_rate / (warmup_steps + 1), learning_rate, warmup_steps, steps
    )
    clip = optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity()
    return optax.chain(clip, optax.adam(rate))


def two_time_scales(
    generator_rate: float,
    discriminator_rate: float,
    *,
    warmup_steps: int = 0,
    betas: tuple[float, float] = (0.5, 0.99),
) -> optax.GradientTransformation:
    """Adam with a rate for each network (Heusel et al. 2017), which climb in a line and then stay.

    Nothing is clipped: a common norm would let one network's gradient shorten the other's step.
    """

    def adam(rate: float) -> optax.GradientTransformation:
        climb = optax.linear_schedule(rate / (warmup_steps + 1), rate, warmup_steps)
        return optax.adam(climb, *betas)

    rates = {"generator": adam(generator_rate), "discriminator": adam(discriminator_rate)}
    return optax.partition(rates, {name: name for name in rates})
