"""Two networks against each other: the losses of a generator and of its discriminator."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffjax.randomness import normal
from diffjax.typing import Images, Keys, Params

Logits = Float[Array, "B *patches"]
Metrics = dict[str, Array]


class Game(NamedTuple):
    """What each side loses, a logit: the generator by fakes' logits, the other by both kinds'."""

    generator: Callable[[Logits], Logits]
    discriminator: Callable[[Logits, Logits], Logits]


GAMES = {
    # Goodfellow et al. 2014, eq. 1 with the generator's loss of sec. 3: log D is what is maximised.
    "non_saturating": Game(
        lambda fake: jax.nn.softplus(-fake),
        lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
    ),
    # Lim & Ye 2017.
    "hinge": Game(
        lambda fake: -fake,
        lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
    ),
}


def each_side(
    game: Game, seen: Logits, fake: Logits, real: Logits, penalty: Float[Array, ""]
) -> tuple[Metrics, Metrics]:
    """The mean losses to add up, by name, and the mean logits of the discriminator.

    There is one logit per image, or one per patch. `seen` are the fakes' logits with a gradient in
    the generator alone, `fake` the same logits with one in the discriminator alone.
    """
    own = {
        "generator_loss": jnp.mean(game.generator(seen)),
        "discriminator_loss": jnp.mean(game.discriminator(real, fake)),
        "r1": penalty,
    }
    return own, {"real_logit": jnp.mean(real), "fake_logit": jnp.mean(fake)}


def at_real(
    of: Callable[[Images], Logits], images: Images, r1: float
) -> tuple[Logits, Float[Array, ""]]:
    """The logits of real images, and r1 / 2 times the mean squared norm of their slopes.

    An image's slope is the gradient of its logit, or of the mean over its patches' logits.
    """
    if not r1:
        return of(images), jnp.zeros(())
    logits, pull = jax.vjp(of, images)
    # No image counts in another's logit.
    (slopes,) = pull(jnp.full_like(logits, len(logits) / logits.size))
    return logits, 0.5 * r1 * jnp.mean(jnp.sum(slopes**2, (1, 2, 3)))


def adversarial_loss(
    generate: Callable[[Params, Float[Array, "B L"]], Images],
    discriminate: Callable[[Params, Images], Logits],
    latent: int,
    *,
    game: Game,
    r1: float = 0.0,
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], Metrics]]:
    """The sum of both networks' losses, of which each one's gradient is that of its own alone.

    params is {"generator": ..., "discriminator": ...}; `generate` and `discriminate` read their
    part of it. So one gradient updates both at once (simultaneous gradient descent: Mescheder et
    al. 2018). The batch holds `image` in [-1, 1]; latents are unit normal, each of its sample's
    key.

    r1 is gamma of Mescheder et al. 2018, eq. 9: half of it times the squared norm of the
    discriminator's gradient at real images. At 0 this is not computed.
    """

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], Metrics]:
        images = generate(params, normal(keys, (latent,)))
        seen = discriminate(lax.stop_gradient(params), images)
        fake = discriminate(params, lax.stop_gradient(images))
        real, penalty = at_real(lambda x: discriminate(params, x), batch["image"], r1)
        own, logits = each_side(game, seen, fake, real, penalty)
        return sum(own.values(), jnp.zeros(())), {**own, **logits}

    return loss_fn
