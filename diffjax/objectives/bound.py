"""The bound of an autoencoder whose latents have a cost (Kingma & Welling 2014, eq. 3)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.typing import Images
from diffjax.variational_terms import gaussian_nll, levels_nll

Likelihood = Literal["gaussian", "levels"]
LIKELIHOODS: dict[Likelihood, Callable[..., Float[Array, "B"]]] = {
    "gaussian": gaussian_nll,
    "levels": levels_nll,
}
Metrics = dict[str, Array]
Distance = Callable[[Images, Images], Float[Array, "B"]]


class Coded(NamedTuple):
    """Latents to decode, and what they cost.

    nats: what a sample's latents cost, such as their KL from N(0, I); the bound counts them.
    penalty: what training adds besides, such as the losses of a codebook.
    """

    z: Float[Array, "B h w c"]
    nats: Float[Array, "B"]
    penalty: Float[Array, ""]
    metrics: Metrics


class Weights(NamedTuple):
    """beta: of the latents' cost (Higgins et al. 2017); 1 is the bound. perceptual: of a distance
    in the features of a network (Zhang et al. 2018), per image; 0 computes none.
    """

    beta: float = 1.0
    perceptual: float = 0.0


def kl_to_unit(
    mean: Float[Array, "B h w c"], log_variance: Float[Array, "B h w c"]
) -> Float[Array, "B"]:
    """KL of N(mean, exp(log_variance)) from N(0, I), in nats (Kingma & Welling 2014, app. B)."""
    each = mean**2 + jnp.expm1(log_variance) - log_variance
    return each.sum((1, 2, 3)) / 2


def bound_loss(
    images: Images,
    decoded: Images,
    coded: Coded,
    log_std: Float[Array, ""],
    likelihood: Likelihood,
    weights: Weights,
    distance: Distance | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The negative bound in nats per dimension, and what is added to it.

    log_std: the logarithm of the decoder's one standard deviation, which is learnt (Rybkin et al.
    2021). likelihood: of images' values, or of their 256 levels. With a beta of 1 and nothing added
    the loss is the bound: `bits_per_dim` in the metrics is in its units where the likelihood is of
    levels.
    """
    dims = images[0].size
    nll = LIKELIHOODS[likelihood](images, decoded, jnp.exp(log_std))
    loss = jnp.mean(nll + weights.beta * coded.nats) / dims + coded.penalty
    metrics = {
        "mse": jnp.mean((decoded - images) ** 2),
        "nats_of_images": jnp.mean(nll),
        "nats_of_latents": jnp.mean(coded.nats),
        "std": jnp.exp(log_std),
        **coded.metrics,
    }
    if likelihood == "levels":
        metrics["bits_per_dim"] = jnp.mean(nll + coded.nats) / (dims * jnp.log(2))
    if weights.perceptual:
        assert distance is not None
        far = jnp.mean(distance(decoded, images))
        loss, metrics = loss + weights.perceptual * far, {**metrics, "perceptual": far}
    return loss, metrics
