"""A first stage: images to latents and back, with a cost of latents."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

import diffjax.models
from diffjax import spec
from diffjax.batches import in_batches
from diffjax.data.images import to_uint8
from diffjax.display.images import grid, save_grid, save_picture
from diffjax.errors import UserError
from diffjax.metrics import codebook
from diffjax.metrics.lpips import DISTANCES, NETWORKS, Distance, classifier_distance
from diffjax.metrics.psnr import decibels
from diffjax.metrics.reconstruction import image_errors
from diffjax.models.classifier import Classifier
from diffjax.models.patch_discriminator import PatchDiscriminator
from diffjax.models.vq import VQModel
from diffjax.objectives.adversarial import GAMES
from diffjax.objectives.autoencoding import (
    LIKELIHOODS,
    Adversary,
    Likelihood,
    autoencoding_loss,
    elbo_bits_per_dim,
    kl_to_unit,
)
from diffjax.randomness import normal, sample_keys
from diffjax.spaces.latents import posterior
from diffjax.tasks.base import Asked, Component, Preview, Samples, Source, Task
from diffjax.tasks.denoisers import AUTOENCODER, stage_of
from diffjax.tasks.examined import Exam, of_tenths, read_held_out
from diffjax.tasks.latent_cache import latent_shape
from diffjax.training.journal import HELD_OUT, add_line
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Images, Keys, Params

__all__ = ["Autoencoding"]

NOISE, DISCRIMINATOR, FEATURES = "decoder_noise", "discriminator", "features"
LAST_LAYER = (AUTOENCODER, "decoder", "conv_out", "kernel")
START = 0.2  # the decoder's standard deviation before training, in images from -1 to 1
BATCH = 32  # images at a time where nothing is learnt
SMALLEST = 64  # pixels: LPIPS was fitted to patches of this size
COLLAPSED = 0.05  # share of codes in use: with fewer the codebook has collapsed
PLANE = 15  # images on a side of the latent plane
Latent = Float[Array, "B h w c"]
PerSample = Float[Array, "B"]


class DecoderNoise(nn.Module):
    """The logarithm of the one standard deviation of decoded images (Rybkin et al. 2021)."""

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("log_std", nn.initializers.constant(math.log(START)), ())


class Outcome(NamedTuple):
    """What weights make of images: their mean latents decoded, and what is measured per image.

    nll and nats are the two terms of the bound, of drawn latents. codes: indices, where there are.
    """

    decoded: Float[np.ndarray, "N H W C"]
    errors: dict[str, Float[np.ndarray, "N"]]
    nll: Float[np.ndarray, "N"]
    nats: Float[np.ndarray, "N"]
    codes: Int[np.ndarray, "N h w"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoding(Task):
    """Images to latents and back, by the variational bound and what makes images look sharp.

    model: a network with `encode` and `decode`. likelihood: of images' values, or of their 256
    levels. beta: the weight of what latents cost, their KL from N(0, I), or the losses of a
    codebook; 1 is the bound. perceptual: the weight of a distance of images in the layers of a
    network, `features`: AlexNet or VGG16 (LPIPS), or a classifier. adversarial: the weight of what
    `discriminator` says of decoded images, beside the weight that balances gradients (Esser et al.
    2021, eq. 7), from step adversarial_start on; discriminator_rate: its learning rate.

    Raises UserError for a network that does not encode, a discriminator that is none, and features
    without a weight or the reverse.
    """

    model: Any  # checked, as the discriminator is
    image_shape: tuple[int, int, int]
    likelihood: Likelihood = "gaussian"
    beta: float = 1.0
    perceptual: float = 0.0
    features: Source | None = None
    adversarial: float = 0.0
    adversarial_start: int = 0
    discriminator: Any = PatchDiscriminator(n_layers=2, channels=32)  # noqa: RUF009 frozen
    discriminator_rate: float = 4e-4

    training_only: ClassVar[tuple[str, ...]] = (FEATURES,)
    specs: ClassVar[dict[str, Any]] = {"model": diffjax.models, "discriminator": diffjax.models}

    def __post_init__(self) -> None:
        if not (hasattr(self.model, "encode") and hasattr(self.model, "decode")):
            raise UserError(
                f"{spec.render(self.model)} is no autoencoder: choose vae, autoencoder_kl or vq",
                option="model",
            )
        if not isinstance(self.discriminator, PatchDiscriminator):
            raise UserError(
                f"{spec.render(self.discriminator)} is no patch_discriminator: choose one",
                option="discriminator",
            )
        if (self.perceptual > 0) != (self.features is not None):
            raise UserError(
                f"perceptual={self.perceptual}: give features and a weight above 0, or neither",
                option="perceptual",
            )

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def quantises(self) -> bool:
        """Whether latents are codes."""
        return isinstance(self.model, VQModel)

    @functools.cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latents. Raises UserError where images do not fit."""
        images = jnp.zeros((1, *self.image_shape))
        params = jax.eval_shape(self.model.init, jax.random.key(0), images)["params"]
        return latent_shape(Component(self.model, params), self.image_shape)

    def networks(self) -> dict[str, nn.Module]:
        own: dict[str, nn.Module] = {AUTOENCODER: self.model, NOISE: DecoderNoise()}
        return {**own, DISCRIMINATOR: self.discriminator} if self.adversarial else own

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        images = jnp.zeros((1, *self.image_shape))
        params = {
            AUTOENCODER: self.model.init(key, images)["params"],
            NOISE: DecoderNoise().init(key)["params"],
        }
        if self.adversarial:
            own = jax.random.fold_in(key, 1)
            params[DISCRIMINATOR] = self.discriminator.init(own, images)["params"]
        return params

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        far = distance_in(frozen[FEATURES].model) if self.features else None

        def distortion(params: Any, given: Any, images: Images, found: Images) -> PerSample:
            std = jnp.exp(params[NOISE]["log_std"])
            nll = LIKELIHOODS[self.likelihood](images, found, std)
            if far is None:
                return nll
            return nll + self.perceptual * images[0].size * far(given[FEATURES], images, found)

        own = autoencoding_loss(
            lambda params, keys, images: self._drawn(params[AUTOENCODER], keys, images),
            lambda params, z: decode(self.model, params[AUTOENCODER], z),
            distortion,
            beta=self.beta,
            adversary=self._adversary(),
        )
        return Loss(own, timed=bool(self.adversarial))

    def _adversary(self) -> Adversary | None:
        if not self.adversarial:
            return None
        return Adversary(
            lambda params, x: self.discriminator.apply({"params": params[DISCRIMINATOR]}, x),
            GAMES["hinge"], LAST_LAYER, self.adversarial, self.adversarial_start,
        )  # fmt: skip

    def _drawn(self, params: Params, keys: Keys, images: Images) -> tuple[Latent, PerSample]:
        """Latents to decode in training, and what they cost in nats per sample."""
        mean, log_variance = stage_of(self.model, params).encode(images)
        if not self.quantises:
            return posterior(keys, mean, log_variance), kl_to_unit(mean, log_variance)
        found: Any = self.model.apply(
            {"params": params}, mean, method="quantise", train=True, keys=keys
        )
        # The codebook's losses are per dimension, as the loss that they are added to.
        return found.codes, jnp.full(len(images), sum(found.losses) * images[0].size)

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Exam) -> Preview:
        """Measures weights on held-out images, into curves and pictures.

        A picture has ten held-out images, what is decoded of their latents, and ten images of
        latents from N(0, I). The whole plane of two latents is drawn in latent_plane.png.
        """
        images = read_held_out(shown.records)["image"]
        ten = of_tenths(len(images))
        features = frozen.get(FEATURES)

        def show(step: int, params: Params) -> None:
            outcome = self.tried(params, images, shown.seed, features)
            found = self.figures(outcome)
            add_line(folder.path / HELD_OUT, step, found)
            rows = [images[ten], outcome.decoded[ten]]
            if not self.quantises:
                z = self.prior(jax.random.key(shown.seed), len(ten))
                rows.append(self.decoded(params[AUTOENCODER], z))
            sheet = grid(to_uint8(np.concatenate(rows)), len(ten))
            save_picture(folder.picture(step), sheet, drawn="part")
            if self.latent_shape == (1, 1, 2) and not self.quantises:
                save_grid(folder.plane, to_uint8(self.plane(params[AUTOENCODER])))
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            shown.say(f"step {step}: {numbers}, of {len(images)} held-out images")
            if found.get("usage", 1) < COLLAPSED:
                shown.say(
                    f"step {step}: {found['usage']:.1%} of the codes are in use: the codebook has "
                    "collapsed; give the model quantiser='ema(revive_below=0.1)', or fewer codes"
                )

        return show

    def tried(
        self,
        params: Mapping[str, Params],
        images: Float[np.ndarray, "N H W C"],
        seed: int,
        features: Component | None = None,
        batch_size: int = BATCH,
    ) -> Outcome:
        """What weights make of images; with a perceptual distance where there are features."""
        far = None if features is None else distance_in(features.model)
        look, key = looking(self, far), jax.random.key(seed)
        weights = None if features is None else features.params
        every = np.arange(len(images))
        return Outcome(
            *in_batches(
                lambda rows: look(params, weights, key, rows, images[rows]), every, batch_size
            )
        )

    def figures(self, outcome: Outcome) -> dict[str, float]:
        """What is said of images.

        psnr in dB; ssim and perceptual, the means over images. bits_per_dim: the bound on the
        negative log-likelihood of 8-bit images, of which latents_bits are the latents' KL, or the
        logarithm of the number of codes. usage and perplexity are of codes.
        """
        errors = {name: float(e.mean(dtype=np.float64)) for name, e in outcome.errors.items()}
        dims = math.prod(self.image_shape)
        found = {
            "psnr": decibels(errors.pop("mse")),
            **errors,
            "bits_per_dim": _mean_bits(outcome.nats, outcome.nll, dims),
            "latents_bits": _mean_bits(outcome.nats, np.zeros_like(outcome.nll), dims),
        }
        if outcome.codes is None:
            return found
        counts = codebook.code_counts(outcome.codes, self.model.num_vq_embeddings)
        return {
            **found,
            "usage": codebook.usage(counts),
            "perplexity": codebook.perplexity(counts),
        }

    def decoded(self, params: Params, z: Latent) -> Float[np.ndarray, "N H W C"]:
        """Images in [-1, 1] of latents, in batches."""
        made = in_batches(lambda rows: compiled(self.model, params, rows), np.asarray(z), BATCH)
        return np.clip(made, -1, 1)

    def prior(self, key: Key[Array, ""], num: int) -> Latent:
        """Latents from N(0, I), each of a key of its own."""
        return normal(sample_keys(key, 0, num), self.latent_shape)

    def plane(self, params: Params) -> Float[np.ndarray, "N H W C"]:
        """Images of two latents at even quantiles of N(0, I) (Kingma & Welling 2014, fig. 4).

        The first latent grows from left to right, the second from top to bottom.
        """
        at = jax.scipy.special.ndtri((jnp.arange(PLANE) + 0.5) / PLANE)
        second, first = jnp.meshgrid(at, at, indexing="ij")
        return self.decoded(params, jnp.stack([first, second], -1).reshape(-1, 1, 1, 2))

    def sample(
        self, components: Mapping[str, Component], key: Key[Array, ""], asked: Asked
    ) -> Samples:
        """Images of latents from N(0, I), and no trajectory. Raises UserError for other options."""
        if self.quantises:
            raise UserError(
                "codes have no law to draw them by: train a diffusion run in their latents"
            )
        asked.check_plain("an autoencoder")
        z = self.prior(key, asked.count)
        images = jnp.asarray(self.decoded(components[AUTOENCODER].params, z))
        return Samples(images, images[None])


def distance_in(network: nn.Module) -> Distance:
    """(params, images, images) -> the distance of each pair in the network's layers.

    Images that are too small for LPIPS are enlarged by a whole factor.
    """
    if isinstance(network, Classifier):
        return classifier_distance(network.apply)
    return functools.partial(_enlarged, network)


def _enlarged(network: nn.Module, params: Params, a: Images, b: Images) -> PerSample:
    far = next(DISTANCES[name] for name, own in NETWORKS.items() if own == network)
    zoom = -(-SMALLEST // min(a.shape[1:3]))
    a, b = (x.repeat(zoom, axis=1).repeat(zoom, axis=2) for x in (a, b))
    return far(params, a, b)


def decode(model: Any, params: Params, z: Latent) -> Images:
    """Images of latents."""
    return stage_of(model, params).decode(z)


compiled = jax.jit(decode, static_argnums=0)


@functools.lru_cache(maxsize=8)
def looking(task: Autoencoding, far: Distance | None) -> Callable[..., tuple[Any, ...]]:
    """A compiled (params, far's params, key, places, images) -> the parts of Outcome."""

    def nats_of(params: Params, keys: Keys, mean: Latent, log_variance: Latent) -> Any:
        """Latents as the bound has them, their nats, and their codes."""
        if not task.quantises:
            return posterior(keys, mean, log_variance), kl_to_unit(mean, log_variance), None
        found: Any = task.model.apply({"params": params}, mean, method="quantise")
        # Each code is as likely as any other where nothing is learnt of them.
        each = math.log(task.model.num_vq_embeddings) * math.prod(mean.shape[1:3])
        return mean, jnp.full(len(mean), each), found.indices

    @jax.jit
    def look(
        params: Params, weights: Params, key: Key[Array, ""], places: Array, images: Images
    ) -> tuple[Any, ...]:
        own, std = params[AUTOENCODER], jnp.exp(params[NOISE]["log_std"])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        mean, log_variance = stage_of(task.model, own).encode(images)
        z, nats, codes = nats_of(own, keys, mean, log_variance)
        nll = LIKELIHOODS["levels"](images, decode(task.model, own, z), std)
        decoded = jnp.clip(decode(task.model, own, mean), -1, 1)
        distance = None if far is None else functools.partial(far, weights)
        errors = image_errors(decoded, images, distance)
        return decoded, errors, nll, nats, codes

    return look


def _mean_bits(nats: Float[np.ndarray, "N"], nll: Float[np.ndarray, "N"], dims: int) -> float:
    bits = elbo_bits_per_dim(jnp.asarray(nats), jnp.asarray(nll), dims)
    return float(np.asarray(bits).mean(dtype=np.float64))
