"""Vector quantisation with a codebook of moving averages (van den Oord et al. 2017, app. A.1).

The codebook is model state (diffjax/models/stateful.py). No gradient moves it. Training averages
the new states of devices and of accumulated pieces, so every statistic here is a mean over the
vectors of a call, and the mean of equal parts' statistics is the statistic of the whole batch.
Whatever is not linear in the batch, such as the choice of dead codes, is computed from the state
before the step. That state is the same on all devices.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from diffjax.errors import UserError
from diffjax.models.quantisers.base import (
    Indices,
    Losses,
    Quantised,
    Vectors,
    check_codes,
    nearest,
    squared_error,
    straight_through,
)
from diffjax.models.quantisers.vq import uniform_codes
from diffjax.models.stateful import CODEBOOK
from diffjax.typing import Keys

__all__ = ["AveragedQuantiser"]

LEAST = 1e-12  # share of vectors: with less, a code's average would underflow to 0 / 0
REVIVAL = 8  # folded into a sample's key: the draws of candidates for dead codes
OCTAVE = 4  # slots between a probability and its half
SLOTS = 23 * OCTAVE + 1  # uniform float32 numbers are multiples of 2**-23
ALONE = 2e-6  # relative variance of marks that rounding leaves of one


class Usage(NamedTuple):
    """The share of all vectors that each code has, and the sum of these vectors per vector."""

    counts: Float[Array, "K"]
    sums: Float[Array, "K D"]

    @property
    def codebook(self) -> Float[Array, "K D"]:
        return self.sums / self.counts[:, None]


class Candidates(NamedTuple):
    """The vectors of the last batch by slot: sums of 1, of vectors, of marks and of marks²."""

    counts: Float[Array, "S"]
    sums: Float[Array, "S D"]
    marks: Float[Array, "S"]
    squares: Float[Array, "S"]


class AveragedQuantiser(nn.Module):
    """The nearest of `num_codes` codes, each the moving average of its vectors (ibid., eq. 6 to 8).

    `beta` weighs the commitment loss, the one loss. `decay` is the averages' from step to step, as
    Razavi et al. 2019 use. A code whose usage falls below `revive_below` times the mean usage is
    dead. It is put on a vector of the last batch (random restarts, Dhariwal et al. 2020, sec. 3.1);
    0 leaves dead codes where they are. Raises UserError for numbers out of range.
    """

    num_codes: int = 512
    code_dim: int = 64
    beta: float = 0.25
    decay: float = 0.99
    revive_below: float = 0.0

    def __post_init__(self) -> None:
        check_codes("ema", self.num_codes, self.code_dim, self.beta)
        if not 0 < self.decay < 1:
            raise UserError(f"ema(decay={self.decay}): decay must be between 0 and 1")
        if not 0 <= self.revive_below < 1:
            raise UserError(
                f"ema(revive_below={self.revive_below}): choose 0 (never) up to, but not, 1"
            )
        super().__post_init__()

    def setup(self) -> None:
        self.usage = self.variable(CODEBOOK, "usage", self._start)
        if self.revive_below:
            empty = jnp.zeros(SLOTS)
            sums = jnp.zeros((SLOTS, self.code_dim))
            candidates = Candidates(empty, sums, empty, empty)._asdict()
            self.candidates = self.variable(CODEBOOK, "candidates", lambda: candidates)

    @property
    def size(self) -> int:
        return self.num_codes

    @property
    def dim(self) -> int:
        return self.code_dim

    def __call__(
        self, latents: Vectors, *, train: bool = False, keys: Keys | None = None
    ) -> Quantised:
        """Raises UserError in training without `keys` where dead codes are revived."""
        usage = self._before(train)
        indices = nearest(latents, usage.codebook)
        codes = usage.codebook[indices]
        if train and not self.is_initializing():
            self._move(usage, lax.stop_gradient(latents), indices, keys)
        losses = Losses(jnp.zeros(()), self.beta * squared_error(codes, latents))
        return Quantised(straight_through(latents, codes), indices, losses)

    def look_up(self, indices: Indices) -> Vectors:
        return self._held().codebook[indices]

    def _start(self) -> dict[str, Array]:
        """Codes of hardly any usage, so that the vectors of the first batch outweigh them."""
        codes = uniform_codes(self.make_rng("params"), (self.num_codes, self.code_dim))
        return Usage(jnp.full(self.num_codes, LEAST), LEAST * codes)._asdict()

    def _held(self) -> Usage:
        return Usage(**jax.tree.map(jnp.asarray, self.usage.value))

    def _before(self, train: bool) -> Usage:
        """The usage that a call begins with; in training dead codes are revived in it."""
        usage = self._held()
        if not train:
            return usage
        usage = lasting(usage)
        if not self.revive_below:
            return usage
        return revived(usage, Candidates(**self.candidates.value), self.revive_below)

    def _move(self, usage: Usage, latents: Vectors, indices: Indices, keys: Keys | None) -> None:
        moved = averaged(usage, latents, indices, self.decay)
        self.usage.value = moved._asdict()
        if not self.revive_below:
            return
        if keys is None:
            raise UserError(
                f"ema(revive_below={self.revive_below}) draws vectors in training: give keys, one "
                "per sample"
            )
        self.candidates.value = drawn(keys, latents)._asdict()


def averaged(usage: Usage, latents: Vectors, indices: Indices, decay: float) -> Usage:
    """The usage moved towards the usage of these vectors (ibid., eq. 6 and 7)."""
    own = Usage(*_means(indices, len(usage.counts), jnp.ones(indices.shape), latents))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, usage, own)


def lasting(usage: Usage) -> Usage:
    """The same codes, none of less usage than LEAST: codes without vectors stay where they are."""
    grown = jnp.maximum(usage.counts, LEAST)
    return Usage(grown, usage.sums * (grown / usage.counts)[:, None])


def drawn(keys: Keys, latents: Float[Array, "B *n D"]) -> Candidates:
    """Each vector in a slot drawn from its sample's key; slot s has probability ~ 2^(-s / OCTAVE).

    Whatever the number of vectors, some slots are so rare that they hold just one of all devices'
    vectors, about OCTAVE / ln 2 slots in the mean. The mean over devices leaves the vector of such
    a slot whole, where it would blend vectors that devices choose each for itself. A second draw
    marks each vector. The variance of the marks in a slot shows whether it holds just one.
    """
    own = jax.vmap(lambda key: jax.random.fold_in(key, REVIVAL))(keys)
    shape = (2, *latents.shape[1:-1])
    draws = jax.vmap(lambda key: jax.random.uniform(key, shape))(own)
    slots = (-OCTAVE * jnp.log2(1 - draws[:, 0])).astype(jnp.int32)
    marks = 1 + draws[:, 1]
    return Candidates(*_means(slots, SLOTS, jnp.ones(slots.shape), latents, marks, marks**2))


def alone(candidates: Candidates) -> Bool[Array, "S"]:
    """Which slots hold just one vector of the whole batch, by the variance of their marks."""
    counts, _, marks, squares = candidates
    return (counts > 0) & (counts * squares - marks**2 <= ALONE * marks**2)


def revived(usage: Usage, candidates: Candidates, below: float) -> Usage:
    """The usage with dead codes on vectors that are alone in their slots, as many as there are.

    Dead codes have less than `below` times the mean usage. Revived codes have the mean usage.
    """
    mean = usage.counts.mean()
    dead = usage.counts < below * mean
    single = alone(candidates)
    order = jnp.argsort(~single)  # single ones first
    turn = jnp.cumsum(dead) - 1  # the first dead code takes the first single slot
    slot = order[jnp.minimum(turn, SLOTS - 1)]
    revives = dead & (turn < single.sum())
    # Of slots that nothing is taken from, the division by 0 is left out with what it gives.
    vectors = candidates.sums[slot] / candidates.counts[slot, None]
    return Usage(
        jnp.where(revives, mean, usage.counts),
        jnp.where(revives[:, None], mean * vectors, usage.sums),
    )


def _means(groups: Int[Array, "*n"], count: int, *values: Array) -> list[Float[Array, "K ..."]]:
    """For each group the sum of its values, divided by the number of all values."""
    member = jax.nn.one_hot(groups.ravel(), count)
    # Products, not sums at indices, whose order on a GPU changes from run to run.
    product = partial(jnp.einsum, "nk,n...->k...", precision=lax.Precision.HIGHEST)
    return [
        product(member, value.reshape(len(member), *value.shape[groups.ndim :])) / len(member)
        for value in values
    ]
