"""What a step of training draws for each sample, and what the network predicts."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from diffjax.conditions.base import Condition
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.objectives import dropout
from diffjax.process import Process, told
from diffjax.randomness import fold_in, normal
from diffjax.time_laws.base import TimeLaw
from diffjax.typing import Apply, Cond, Images, Keys, Params

LossFn = Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]


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
    channel. condition: what the network is told of each sample, hidden as the condition says.
    on_grid: times are moved up to DDPM's grid. train: dropout, batch norm and hiding act.
    Raises UserError for an offset_noise below 0.
    """

    process: Process
    apply: Apply
    times: TimeLaw
    condition: Condition = Unconditional()  # noqa: RUF009 frozen
    offset_noise: float = 0.0
    on_grid: bool = False
    train: bool = True

    def __post_init__(self) -> None:
        if not self.offset_noise >= 0:
            raise UserError(f"offset_noise={self.offset_noise}: choose 0 (none) or above")

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
        seen = process.model_input(x, t), process.model_time(t), *told(self._cond(keys, batch))
        with dropout.by_sample(drop_keys):
            output = self.apply({"params": params}, *seen, train=self.train)
        return Noised(process, x0, eps, x, t, importance, output)

    def _cond(self, keys: Keys, batch: Mapping[str, Array]) -> Cond:
        cond = self.condition.of_batch(batch)
        return self.condition.hide(keys, cond) if self.train else cond
