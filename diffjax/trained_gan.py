"""A run of experiments.gan as objects: its networks, the weights it has reached, and its images."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

import diffjax.models.gan
from diffjax import spec
from diffjax.batches import padded
from diffjax.data.images import to_uint8
from diffjax.errors import UserError
from diffjax.randomness import normal, sample_keys
from diffjax.trained import newest
from diffjax.training.run import RunConfig, RunFolder
from diffjax.typing import Params

BATCH = 50  # latents at a time: more are no faster
Draw = Callable[[Params, Float[Array, "N L"]], UInt8[np.ndarray, "N H W C"]]


@dataclasses.dataclass(frozen=True)
class TrainedGAN:
    """What a run of experiments.gan has learnt: EMA weights of both networks at `step`."""

    config: RunConfig
    model: nn.Module
    step: int
    params: Params


def build(config: RunConfig) -> Any:
    """The networks that a config describes. Raises UserError for a config of another kind."""
    if config.experiment != "gan":
        raise UserError(f"a run of experiments.{config.experiment} is no GAN: pass one of gan's")
    return spec.build(config.model, diffjax.models.gan)


def init_params(model: Any, key: Any) -> Params:
    """Fresh parameters of both networks."""
    return model.init(key, jnp.zeros((1, model.latent)))["params"]


def load(folder: str | os.PathLike[str]) -> TrainedGAN:
    """The newest checkpoint of the run in `folder`. Raises UserError where there is none."""
    run, config = RunFolder.open(folder)
    model = build(config)
    step, params = newest(run, lambda key: init_params(model, key))
    return TrainedGAN(config, model, step, params)


def latents(model: Any, seed: int, num: int) -> Float[Array, "N L"]:
    """Unit normal latents, each of a key of its own: the first are the same whatever `num` is."""
    return normal(sample_keys(jax.random.key(seed), 0, num), (model.latent,))


def make_draw(model: Any) -> Draw:
    """A compiled (params, latents) -> images as bytes, in batches of one shape."""
    generate = jax.jit(lambda params, z: model.apply({"params": params}, z, method="generate"))

    def draw(params: Params, z: Float[Array, "N L"]) -> UInt8[np.ndarray, "N H W C"]:
        batches = [np.asarray(generate(params, z[rows])) for _, rows in padded(len(z), BATCH)]
        return to_uint8(np.concatenate(batches)[: len(z)])

    return draw


def draw(trained: TrainedGAN, seed: int, num: int) -> UInt8[np.ndarray, "N H W C"]:
    """`num` images as bytes."""
    return make_draw(trained.model)(trained.params, latents(trained.model, seed, num))
