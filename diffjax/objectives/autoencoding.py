"""Losses of autoencoders: rate, distortion, and a discriminator of the reconstructions.

Rates and distortions are in nats per sample, so that with beta 1 their sum is the negative ELBO
(Kingma & Welling 2014, eq. 3).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffjax.objectives.adversarial import Game, Logits, Metrics, at_real, each_side
from diffjax.typing import Gather, Images, Keys, Params
from diffjax.variational_terms import gaussian_nll, levels_nll, per_image

Latents = Float[Array, "B h w c"]
Scalar = Float[Array, ""]
# (params, keys, images) -> latents, and their rate: the KL of a VAE, the codebook's terms of a VQ
Encode = Callable[[Params, Keys, Images], tuple[Latents, Float[Array, "B"]]]
Decode = Callable[[Params, Latents], Images]
# (params, frozen, images, reconstructions) -> nats per sample, perhaps but for a constant
Distortion = Callable[[Params, Params, Images, Images], Float[Array, "B"]]

# Of images whose values are continuous, or of their 256 levels.
Likelihood = Literal["gaussian", "levels"]
LIKELIHOODS: dict[Likelihood, Callable[..., Float[Array, "B"]]] = {
    "gaussian": gaussian_nll,
    "levels": levels_nll,
}

DELTA, MOST = 1e-4, 1e4  # of the adaptive weight (the code of Esser et al. 2021)


def kl_to_unit(mean: Latents, log_variance: Latents) -> Float[Array, "B"]:
    """KL of N(mean, exp(log_variance)) from N(0, 1), in nats per sample (Kingma & Welling, app. B).

    It is the negative of the first term of their eq. 10.
    """
    return per_image(mean**2 + jnp.expm1(log_variance) - log_variance) / 2


def elbo_bits_per_dim(
    kl: Float[Array, "B"], nll: Float[Array, "B"], dims: int
) -> Float[Array, "B"]:
    """The negative ELBO, (kl + nll) / (dims ln 2), of each sample, with beta 1.

    `kl` and `nll` are in nats per sample, `dims` is H x W x C. It bounds the bits per dimension of
    8-bit images where `nll` is a probability of their 256 levels (`variational_terms.levels_nll`),
    and its latents are drawn from the encoder's distribution.
    """
    return (kl + nll) / (dims * np.log(2))


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator that the decoder learns against (Esser et al. 2021).

    discriminate: (params, images) -> logits, one per image or per patch. last_layer: where the
    kernel of the decoder's last layer lies in params. weight: multiplies the adaptive weight.
    start: the step at which both losses begin; before, both are 0. r1: as for `adversarial_loss`.
    """

    discriminate: Callable[[Params, Images], Logits]
    game: Game
    last_layer: tuple[str, ...]
    weight: float = 1.0
    start: int = 0
    r1: float = 0.0

    def started(self, frozen: Params) -> Scalar:
        """1 from step `start` on, else 0. frozen["step"] counts the steps before this one."""
        if not self.start:
            return jnp.ones(())
        return (frozen["step"] >= self.start).astype(jnp.float32)

    def weigh(
        self,
        params: Params,
        rebuild: Callable[[Params], Images],
        distorted: Callable[[Images], Scalar],
        gather: Gather,
    ) -> Scalar:
        """The weight of the decoder's adversarial loss, from the gradients of its last kernel."""
        return self.weight * adaptive_weight(
            lambda kernel: rebuild(replaced(params, self.last_layer, kernel)),
            leaf(params, self.last_layer),
            distorted,
            lambda images: jnp.mean(self.game.generator(self.discriminate(params, images))),
            gather,
        )

    def losses(
        self, params: Params, images: Images, truth: Images, weight: Scalar
    ) -> tuple[Scalar, Metrics]:
        """The sum of both sides' losses, the decoder's times `weight`, and the metrics."""
        seen = self.discriminate(lax.stop_gradient(params), images)
        fake = self.discriminate(params, lax.stop_gradient(images))
        real, penalty = at_real(lambda x: self.discriminate(params, x), truth, self.r1)
        own, logits = each_side(self.game, seen, fake, real, penalty)
        total = weight * own["generator_loss"] + own["discriminator_loss"] + own["r1"]
        return total, {**own, **logits, "adversarial_weight": weight}


def autoencoding_loss(
    encode: Encode,
    decode: Decode,
    distortion: Distortion,
    *,
    beta: float = 1.0,
    adversary: Adversary | None = None,
) -> Callable[[Params, Params, Keys, Mapping[str, Array], Gather], tuple[Scalar, Metrics]]:
    """(distortion + beta rate) / dims, and the losses of a discriminator; see `training.step.Loss`.

    The batch holds `image` in [-1, 1]; dims is H x W x C. `params` is the tree of all networks,
    of which each function reads its own part. One gradient updates all of them: the autoencoder's
    part is the gradient of its own terms, with the decoder's adversarial loss times
    `adaptive_weight`; the discriminator's is that of its loss alone.

    The adaptive weight is that of the whole batch on any number of devices. Where accumulation cuts
    the batch, each piece has its own weight.
    """

    def loss_fn(
        params: Params, frozen: Params, keys: Keys, batch: Mapping[str, Array], gather: Gather
    ) -> tuple[Scalar, Metrics]:
        truth = batch["image"]
        dims = np.prod(truth.shape[1:])
        latents, rate = encode(params, keys, truth)
        images = decode(params, latents)

        def distorted(images: Images) -> Scalar:
            return jnp.mean(distortion(params, frozen, truth, images)) / dims

        own = {"distortion": distorted(images), "rate": jnp.mean(rate) / dims}
        loss = own["distortion"] + beta * own["rate"]
        if adversary is None:
            return loss, own
        still = lax.stop_gradient(latents)
        weight = adversary.weigh(params, lambda params: decode(params, still), distorted, gather)
        added, metrics = adversary.losses(params, images, truth, weight)
        return loss + adversary.started(frozen) * added, {**own, **metrics}

    return loss_fn


def adaptive_weight(
    rebuild: Callable[[Array], Images],
    kernel: Float[Array, "..."],
    distorted: Callable[[Images], Scalar],
    adversarial: Callable[[Images], Scalar],
    gather: Gather = lambda share: share,
) -> Scalar:
    """The weight of the adversarial loss at the decoder's last layer (Esser et al. 2021, eq. 7).

    |d distorted / d kernel| / (|d adversarial / d kernel| + DELTA), from 0 to MOST; a constant of
    the gradient. `rebuild` returns the reconstructions from the last layer's kernel. `gather` joins
    the devices' shares: then the norms are those of the mean gradients over all devices.
    """
    # One pass through the decoder, and two back through its last layer alone.
    images, pull = jax.vjp(rebuild, lax.stop_gradient(kernel))

    def norm(loss: Callable[[Images], Scalar]) -> Scalar:
        (slope,) = pull(jax.grad(loss)(images))
        return jnp.linalg.norm(gather(slope[None]).mean(0).ravel())

    ratio = norm(distorted) / (norm(adversarial) + DELTA)
    return lax.stop_gradient(jnp.clip(ratio, 0, MOST))


def leaf(tree: Params, path: tuple[str, ...]) -> Array:
    """The array at a path of names."""
    for name in path:
        tree = tree[name]
    return tree


def replaced(tree: Params, path: tuple[str, ...], value: Array) -> Params:
    """The tree with another array at a path of names."""
    if not path:
        return value
    name, *rest = path
    return {**tree, name: replaced(tree[name], tuple(rest), value)}
