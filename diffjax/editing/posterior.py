"""Images that agree with what was measured of them: grey, or coarse."""

import abc
import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.editing.base import Edit
from diffjax.errors import UserError
from diffjax.process import expand
from diffjax.randomness import normal
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Prediction, Times

Measured = Float[Array, "B h w c"]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG and Pillow weight red, green and blue


@dataclasses.dataclass(frozen=True)
class Measurement(abc.ABC):
    """A linear map of images with orthonormal rows.

    So a residual is the least change that would mend the image, whatever was measured, and one
    zeta suits every measurement.
    """

    @abc.abstractmethod
    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises UserError for images that it cannot measure."""

    @abc.abstractmethod
    def measure(self, x: Images) -> Measured: ...

    @abc.abstractmethod
    def shown(self, measured: Measured) -> Images:
        """The measured values as an image in [-1, 1]: the one of least norm for a gain of 1."""


@dataclasses.dataclass(frozen=True)
class Grey(Measurement):
    """The luma of colour images."""

    def check(self, image_shape: tuple[int, int, int]) -> None:
        if image_shape[-1] != 3:
            raise UserError(
                "this run draws grey images, which have no colour to find: pass a run "
                "on colour images, or choose another task",
                option="task",
            )

    @property
    def _row(self) -> Float[Array, "3 1"]:
        luma = jnp.asarray(LUMA)[:, None]
        return luma / jnp.linalg.norm(luma)

    def measure(self, x: Images) -> Measured:
        return x @ self._row

    def shown(self, measured: Measured) -> Images:
        return jnp.repeat(measured * jnp.linalg.norm(jnp.asarray(LUMA)), 3, axis=-1)


@dataclasses.dataclass(frozen=True)
class Coarse(Measurement):
    """The means of squares of factor x factor pixels. Raises UserError for a factor below 2."""

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise UserError(f"factor={self.factor}: choose 2 or more")

    def check(self, image_shape: tuple[int, int, int]) -> None:
        height, width, _ = image_shape
        if height % self.factor or width % self.factor:
            legal = [f for f in range(2, min(height, width) + 1) if not (height % f or width % f)]
            raise UserError(
                f"factor={self.factor} does not divide {height}x{width}: choose one of "
                + (", ".join(map(str, legal)) or "none, as they have no common divisor")
            )

    def measure(self, x: Images) -> Measured:
        f = self.factor
        # The mean of f² values is of length 1 / f: hence the sum over f.
        return einops.reduce(x, "b (h i) (w j) c -> b h w c", "sum", i=f, j=f) / f

    def shown(self, measured: Measured) -> Images:
        f = self.factor
        return einops.repeat(measured / f, "b h w c -> b (h i) (w j) c", i=f, j=f)


@dataclasses.dataclass(frozen=True, eq=False)
class DPS(Edit):
    """Diffusion posterior sampling (Chung et al. 2023, algorithm 1): noiseless measurements.

    After each step x moves by zeta times the gradient of the residual's norm, taken through the
    denoiser, against it; by less where the residual is less than zeta, so as not to overshoot.
    Raises UserError for zeta below 0.
    """

    measured: Measured
    measurement: Measurement
    zeta: float = 1.0

    def __post_init__(self) -> None:
        if not self.zeta >= 0:
            raise UserError(f"zeta={self.zeta}: choose 0 (no guidance) or more")

    def start(self, schedule: Schedule, keys: Keys, t: Times) -> Images:
        _, sigma = schedule.alpha_sigma(t)
        return sigma * normal(keys, self.measurement.shown(self.measured).shape[1:])

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Any,
        t: Times,
        s: Times,
    ) -> tuple[Images, Any]:
        def misfit(x: Images) -> tuple[Array, tuple[Array, Prediction]]:
            prediction = denoise(x, t)
            residual = self.measured - self.measurement.measure(prediction.x0)
            square = jnp.sum(residual**2, axis=(1, 2, 3))
            return jnp.sum(square) / 2, (square, prediction)

        slope, (square, prediction) = jax.grad(misfit, has_aux=True)(x)
        here = x

        def told(x: Images, t: Times) -> Prediction:
            # What most samplers ask first has just been computed.
            return prediction if x is here else denoise(x, t)

        x, memory = self.sampler.step(schedule, told, keys, x, memory, t, s)
        # The norm's gradient is the half square's over the norm. A whole half square's gradient is
        # what mends a clean image: more would leave a residual of zeta / 2 in the end.
        share = self.zeta / jnp.maximum(jnp.sqrt(square), max(self.zeta, 1e-6))
        return x - expand(share, x) * slope, memory


jax.tree_util.register_dataclass(DPS, ["measured"], ["sampler", "measurement", "zeta"])
