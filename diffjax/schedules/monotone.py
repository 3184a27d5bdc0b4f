"""Variational diffusion's schedule: a monotone network, learnt with the denoiser."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffjax.errors import UserError
from diffjax.schedules.base import NO_SIGNAL, Schedule
from diffjax.typing import Params

__all__ = ["Monotone"]


ENDS = ("log_snr_max", "log_range")


@dataclasses.dataclass(frozen=True)
class Monotone(Schedule):
    """-log_snr = l1(t) + l3(sigmoid(l2(l1(t)))), stretched to its ends.

    The three layers' weights are positive, so it rises; l2 has `width` outputs. They are learnt,
    and so are the ends, which begin as given (Kingma et al. 2021, appendix H). Before `bind` it is
    linear in t. t = 0 alone is clean. Raises UserError unless -30 < log_snr_min < log_snr_max and
    width > 0.
    """

    log_snr_min: float = -5.0
    log_snr_max: float = 13.3
    width: int = 1024
    # What `bind` was given: no option, and no part of what makes two schedules equal.
    learnt: Params = dataclasses.field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -30 < self.log_snr_min < self.log_snr_max:
            raise UserError(
                f"monotone(log_snr_min={self.log_snr_min}, log_snr_max={self.log_snr_max}): "
                "choose -30 < log_snr_min < log_snr_max"
            )
        if self.width < 1:
            raise UserError(f"monotone(width={self.width}): choose 1 or more")

    def init(self, key: Key[Array, ""]) -> Params:
        """The three layers and the ends; of the layers' values before the softplus, all but biases.

        The units rise one after the other between t = 0 and 1, so that it begins nearly linear.
        """
        steep, places = jax.random.split(key)
        l2 = 10 + jax.random.normal(steep, (self.width,))
        return {
            "log_snr_max": jnp.asarray(self.log_snr_max),
            "log_range": jnp.log(self.log_snr_max - self.log_snr_min),
            "l1": jnp.log(jnp.expm1(1.0)),
            "l2": l2,
            "bias": -l2 * jax.random.uniform(places, (self.width,)),
            "l3": jnp.zeros(self.width),
        }

    def apart(self, params: Params) -> tuple[Params, Params]:
        held = jax.lax.stop_gradient(params)
        ends = {name: params[name] for name in ENDS}
        return {**held, **ends}, {**params, **{name: held[name] for name in ENDS}}

    def bind(self, params: Params) -> "Monotone":
        """A copy that follows params["schedule"]; itself, where that was never learnt."""
        if "schedule" not in params:
            return self
        bound = dataclasses.replace(self)
        object.__setattr__(bound, "learnt", params["schedule"])
        return bound

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        if self.learnt is None:
            log_snr = self.log_snr_max - (self.log_snr_max - self.log_snr_min) * t
        else:
            first, last = self._network(jnp.zeros(())), self._network(jnp.ones(()))
            share = (self._network(t) - first) / (last - first)
            fall = jnp.exp(self.learnt["log_range"])
            log_snr = jnp.maximum(self.learnt["log_snr_max"] - fall * share, NO_SIGNAL)
        return jnp.where(t > 0, log_snr, jnp.inf)

    def _network(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        # The biases of l1 and l3 are left out: l2's and the stretching make up for them.
        l1, l2, l3 = (jax.nn.softplus(self.learnt[layer]) for layer in ("l1", "l2", "l3"))
        straight = l1 * t
        units = jax.nn.sigmoid(l2 * straight[..., None] + self.learnt["bias"])
        return straight + jnp.mean(l3 * units, axis=-1)
