"""A first stage: images to latents and back, with a cost of latents."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

import diffjax.models
from diffjax import spec
from diffjax.batches import in_batches
from diffjax.data.images import to_uint8
from diffjax.display.images import grid, save_grid
from diffjax.errors import UserError
from diffjax.files import write_whole
from diffjax.metrics.lpips import DISTANCES, NETWORKS, Distance, classifier_distance
from diffjax.metrics.psnr import psnr
from diffjax.models.classifier import Classifier
from diffjax.objectives.bound import LIKELIHOODS, Coded, Likelihood, Weights, bound_loss, kl_to_unit
from diffjax.randomness import fold_in, normal, sample_keys
from diffjax.tasks.base import Asked, Component, Preview, Samples, Source, Task
from diffjax.tasks.denoisers import AUTOENCODER
from diffjax.tasks.examined import of_tenths, read_held_out
from diffjax.training.journal import HELD_OUT, add_line
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Images, Keys, Params

__all__ = ["Autoencoding"]

NOISE = "decoder_noise"
DRAW = 6  # folded into a sample's key: the draw of its latents
START = 0.2  # the decoder's standard deviation before training, in images from -1 to 1
BATCH = 32  # images at a time where nothing is learnt
FEATURES = "features"
SMALLEST = 64  # pixels: LPIPS was fitted to patches of this size
PLANE = 15  # images on a side of the latent plane
PLANE_FILE = "latent_plane.png"
Latent = Float[Array, "B h w c"]


class DecoderNoise(nn.Module):
    """The logarithm of the one standard deviation of decoded images (Rybkin et al. 2021)."""

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("log_std", nn.initializers.constant(math.log(START)), ())


class Outcome(NamedTuple):
    """What a first stage makes of images: their mean latents decoded, and the bound's two terms."""

    decoded: Float[np.ndarray, "N H W C"]
    nll: Float[np.ndarray, "N"]
    nats: Float[np.ndarray, "N"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoding(Task):
    """Images to latents and back, by the variational bound.

    model: a network with `encode` and `decode`. likelihood: of images' values, or of their 256
    levels. beta: the weight of the latents' KL from N(0, I); 1 is the bound. perceptual: the weight
    of a distance of decoded images and images in the layers of a network, `features`: AlexNet or
    VGG16 (LPIPS), or a classifier of these images. Raises UserError for a network that does not
    encode, and for one of the two without the other.
    """

    model: Any  # checked
    image_shape: tuple[int, int, int]
    likelihood: Likelihood = "gaussian"
    beta: float = 1.0
    perceptual: float = 0.0
    features: Source | None = None

    training_only: ClassVar[tuple[str, ...]] = (FEATURES,)
    specs: ClassVar[dict[str, Any]] = {"model": diffjax.models}

    def __post_init__(self) -> None:
        if not (hasattr(self.model, "encode") and hasattr(self.model, "decode")):
            raise UserError(
                f"{spec.render(self.model)} is no autoencoder: choose vae, autoencoder_kl or vq",
                option="model",
            )
        if (self.perceptual > 0) != (self.features is not None):
            raise UserError(
                f"perceptual={self.perceptual}: give features and a weight above 0, or neither",
                option="perceptual",
            )

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("image",)

    @functools.cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latents. Raises UserError where images do not fit."""
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        mean, _ = jax.eval_shape(lambda key, x: self._encoded(key, x), jax.random.key(0), images)
        return cast(tuple[int, int, int], mean.shape[1:])

    def _encoded(self, key: Key[Array, ""], images: Images) -> tuple[Latent, Latent]:
        params = self.model.init(key, images)
        return cast(tuple[Latent, Latent], self.model.apply(params, images, method="encode"))

    def networks(self) -> dict[str, nn.Module]:
        return {AUTOENCODER: self.model, NOISE: DecoderNoise()}

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        images = jnp.zeros((1, *self.image_shape))
        return {
            AUTOENCODER: self.model.init(key, images)["params"],
            NOISE: DecoderNoise().init(key)["params"],
        }

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        far = distance_in(frozen[FEATURES].model) if self.features else None

        def function(params: Any, given: Any, keys: Any, batch: Any, gather: Any) -> Any:
            coded = self.coded(params[AUTOENCODER], keys, batch["image"])
            decoded = decode(self.model, params[AUTOENCODER], coded.z)
            return bound_loss(
                batch["image"], decoded, coded, params[NOISE]["log_std"], self.likelihood,
                Weights(self.beta, self.perceptual),
                far and functools.partial(far, given[FEATURES]),
            )  # fmt: skip

        return Loss(function)

    def coded(self, params: Params, keys: Keys, images: Images) -> Coded:
        """Latents drawn from their posterior, each by its sample's key."""
        mean, log_variance = encode(self.model, params, images)
        noise = normal(fold_in(keys, DRAW), mean.shape[1:])
        z = mean + jnp.exp(log_variance / 2) * noise
        return Coded(z, kl_to_unit(mean, log_variance), jnp.zeros(()), {})

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Measures weights on held-out images, into curves and pictures; `shown` is an Exam.

        A picture has ten held-out images, what is decoded of their latents, and ten images of
        latents from N(0, I). The whole plane of two latents is drawn in latent_plane.png.
        """
        images = read_held_out(shown.records)["image"]
        ten = of_tenths(len(images))

        def show(step: int, params: Params) -> None:
            seen = self.tried(params, images, shown.seed)
            found = figures(seen, images)
            add_line(folder.path / HELD_OUT, step, found)
            z = self.prior(jax.random.key(shown.seed), len(ten))
            rows = images[ten], seen.decoded[ten], self.decoded(params[AUTOENCODER], z)
            sheet = grid(to_uint8(np.concatenate(rows)), len(ten))
            write_whole(folder.picture(step), lambda part: sheet.save(part, format="PNG"))
            if self.latent_shape == (1, 1, 2):
                save_grid(folder.path / PLANE_FILE, to_uint8(self.plane(params[AUTOENCODER])))
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            shown.say(f"step {step}: {numbers}, of {len(images)} held-out images")

        return show

    def tried(
        self, params: Mapping[str, Params], images: Float[np.ndarray, "N H W C"], seed: int
    ) -> Outcome:
        """What weights make of images, each with a draw of its latents for the bound."""
        look, key = looking(self), jax.random.key(seed)
        every = np.arange(len(images))
        return Outcome(
            *in_batches(lambda rows: look(params, key, rows, images[rows]), every, BATCH)
        )

    def decoded(self, params: Params, z: Latent) -> Float[np.ndarray, "N H W C"]:
        """Images in [-1, 1] of latents, in batches."""
        made = in_batches(
            lambda rows: compiled_decode(self.model, params, rows), np.asarray(z), BATCH
        )
        return np.clip(made, -1, 1)

    def prior(self, key: Key[Array, ""], num: int) -> Latent:
        """Latents from N(0, I), each of a key of its own."""
        return normal(sample_keys(key, 0, num), self.latent_shape)

    def plane(self, params: Params) -> Float[np.ndarray, "N H W C"]:
        """Images of two latents at even quantiles of N(0, I): the first from left to right, the
        second from top to bottom (Kingma & Welling 2014, fig. 4)."""
        at = jax.scipy.special.ndtri((jnp.arange(PLANE) + 0.5) / PLANE)
        second, first = jnp.meshgrid(at, at, indexing="ij")
        return self.decoded(params, jnp.stack([first, second], -1).reshape(-1, 1, 1, 2))

    def sample(
        self, components: Mapping[str, Component], key: Key[Array, ""], asked: Asked
    ) -> Samples:
        """Images of latents from N(0, I), and no trajectory. Raises UserError for other options."""
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
    far = next(DISTANCES[name] for name, own in NETWORKS.items() if own == network)

    def enlarged(params: Params, a: Images, b: Images) -> Float[Array, "B"]:
        zoom = -(-SMALLEST // min(a.shape[1:3]))
        a, b = (x.repeat(zoom, axis=1).repeat(zoom, axis=2) for x in (a, b))
        return far(params, a, b)

    return enlarged


def encode(model: Any, params: Params, images: Images) -> tuple[Latent, Latent]:
    """Mean and log-variance of latents."""
    return cast(tuple[Latent, Latent], model.apply({"params": params}, images, method="encode"))


def decode(model: Any, params: Params, z: Latent) -> Images:
    """Images of latents."""
    return cast(Images, model.apply({"params": params}, z, method="decode"))


compiled_decode = jax.jit(decode, static_argnums=0)


@functools.lru_cache(maxsize=8)
def looking(task: Autoencoding) -> Callable[..., tuple[Images, Array, Array]]:
    """A compiled (params, key, places of the images, images) -> the parts of Outcome."""

    @jax.jit
    def look(
        params: Params, key: Key[Array, ""], places: Array, images: Images
    ) -> tuple[Images, Array, Array]:
        own, std = params[AUTOENCODER], jnp.exp(params[NOISE]["log_std"])
        mean, _ = encode(task.model, own, images)
        coded = task.coded(own, jax.vmap(jax.random.fold_in, (None, 0))(key, places), images)
        nll = LIKELIHOODS["levels"](images, decode(task.model, own, coded.z), std)
        return jnp.clip(decode(task.model, own, mean), -1, 1), nll, coded.nats

    return look


def figures(seen: Outcome, images: Float[np.ndarray, "N H W C"]) -> dict[str, float]:
    """What is said of held-out images.

    psnr in dB, of the mean latents decoded. bits_per_dim: the bound on the negative log-likelihood
    of 8-bit images, of which latents_bits are the latents' KL.
    """
    to_bits = 1 / (images[0].size * math.log(2))
    return {
        "psnr": psnr(seen.decoded, images),
        "bits_per_dim": float((seen.nll + seen.nats).mean(dtype=np.float64)) * to_bits,
        "latents_bits": float(seen.nats.mean(dtype=np.float64)) * to_bits,
    }
