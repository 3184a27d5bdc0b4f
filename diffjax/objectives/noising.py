"""What a step of training draws for each sample, and what the network says to it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.objectives import dropout
from diffjax.process import Process
from diffjax.randomness import fold_in, normal
from diffjax.time_laws.base import TimeLaw
from diffjax.typing import Apply, Images, Keys, Params

Loss = Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]


class Noised(NamedTuple):
    """A noised batch and the network's output; `process` has a learnt schedule's parameters."""

    process: Process
    x0: Images
    eps: Images
    x: Images
    t: Float[Array, "B"]
    importance: Float[Array, "B"]
    output: Float[Array, "B H W D"]


@dataclasses.dataclass(frozen=True)
class Noising:
    """Noises a batch and shows it to the network.

    offset_noise: the standard deviation of a constant that eps has besides, one a sample and
    channel. num_classes: None for a network that takes no labels. cond_drop: how likely a sample's
    label is to become `num_classes`, the null label. on_grid: times are moved up to DDPM's grid.
    train: what the network is told, for dropout and batch norm.
    Raises UserError for what is out of range, and for labels to drop where there are none.
    """

    process: Process
    apply: Apply
    times: TimeLaw
    num_classes: int | None = None
    offset_noise: float = 0.0
    cond_drop: float = 0.0
    on_grid: bool = False
    train: bool = True

    def __post_init__(self) -> None:
        if not self.offset_noise >= 0:
            raise UserError(f"offset_noise={self.offset_noise}: choose 0 (none) or above")
        check_cond_drop(self.cond_drop)
        if self.cond_drop and self.num_classes is None:
            raise UserError(
                f"cond_drop={self.cond_drop} drops labels, and this network takes none: "
                "choose 0, or give the model num_class_embeds"
            )

    def __call__(self, params: Params, keys: Keys, batch: Mapping[str, Array]) -> Noised:
        process, x0 = self.process.bind(params), batch["image"]
        time_keys, noise_keys, drop_keys = jax.vmap(
            lambda key: jax.random.split(key, 3), out_axes=1
        )(keys)
        draw = self.times.draw_steps if self.on_grid else self.times.draw
        t, importance = draw(time_keys, process.schedule)
        eps = normal(noise_keys, x0.shape[1:])
        if self.offset_noise:
            offset = normal(fold_in(keys, 3), (1, 1, x0.shape[-1]))
            eps = eps + self.offset_noise * offset
        x = process.q_sample(x0, eps, t)
        seen = process.model_input(x, t), process.model_time(t), *self._cond(keys, batch)
        with dropout.by_sample(drop_keys):
            output = self.apply({"params": params}, *seen, train=self.train)
        return Noised(process, x0, eps, x, t, importance, output)

    def _cond(self, keys: Keys, batch: Mapping[str, Array]) -> tuple[Array, ...]:
        if self.num_classes is None:
            return ()
        labels = batch["label"]
        if self.cond_drop:
            dropped = jax.vmap(lambda key: jax.random.bernoulli(key, self.cond_drop))
            labels = jnp.where(dropped(fold_in(keys, 4)), self.num_classes, labels)
        return (labels,)


def check_cond_drop(share: float) -> None:
    """Raises UserError where it is not in [0, 1)."""
    if not 0 <= share < 1:
        raise UserError(f"cond_drop={share}: choose 0 (none) up to, but not, 1")


def masked_elements(loss_fn: Loss, num_classes: int, cond_drop: float) -> Loss:
    """The loss of a network shown one-hot labels, each number of which is dropped by itself.

    So the course "Generative AI with Diffusion Models" hides a condition. Of one-hot labels that is
    as good as Noising's cond_drop; of d numbers, all are dropped with probability cond_drop^d.
    `loss_fn` is to drop none itself. Raises UserError for a cond_drop that is not in [0, 1).
    """
    check_cond_drop(cond_drop)

    def masked(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - cond_drop, (num_classes,)))
        numbers = jax.nn.one_hot(batch["label"], num_classes) * kept(fold_in(keys, 4))
        return loss_fn(params, keys, {**batch, "label": numbers})

    return masked
