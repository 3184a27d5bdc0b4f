"""What all runs that learn a denoiser share: its process, its space, and how it is drawn from."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

import diffjax.conditions
import diffjax.models
import diffjax.samplers
import diffjax.schedules
import diffjax.spaces
from diffjax import spec
from diffjax.batches import in_batches
from diffjax.compiling import LARGE, cpu_options
from diffjax.conditions.base import Condition, in_turn
from diffjax.conditions.none import Unconditional
from diffjax.data.images import to_uint8
from diffjax.data.latents import MOMENTS
from diffjax.display.images import save_film, save_grid
from diffjax.errors import UserError
from diffjax.generate import UNGUIDED, Draw, generate, make_draw, times_of
from diffjax.guidance.base import are_scales
from diffjax.guidance.decoded import Decoded
from diffjax.guidance.plan import Away, Guidance, Judged
from diffjax.models.backbone import Backbone
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.spaces.base import Autoencoder, Latent, Space
from diffjax.spaces.latents import Latents
from diffjax.spaces.pixels import Pixels
from diffjax.spacings.base import Spacing
from diffjax.tasks.base import Asked, Component, Preview, Samples, Source, Task
from diffjax.training.run import RunFolder
from diffjax.typing import Cond, Images, Keys, Params, Target

DENOISER, AUTOENCODER = "denoiser", "autoencoder"
Scales = float | Sequence[float]
Labels = Sequence[Any] | np.ndarray
Decode = Callable[[Float[np.ndarray, "N h w c"]], Float[np.ndarray, "N H W C"]]
# A second call compiles nothing.
drawing: Callable[..., Draw] = functools.lru_cache(maxsize=16)(make_draw)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How a preview is drawn: labels, spacing and guidance as in `runs.Run.sample`."""

    sampler: Sampler = DDIM()  # noqa: RUF009 frozen
    spacing: Spacing | None = None
    steps: int = 50
    num: int = 64
    seed: int = 0
    labels: Labels | None = None
    guidance: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserTask(Task):
    """A network that predicts what a process of noise has done, in a space, under a condition.

    Raises UserError for parts that do not go together.
    """

    model: Any  # a Backbone, which is checked
    image_shape: tuple[int, int, int]
    schedule: Schedule
    target: Target
    condition: Condition = Unconditional()  # noqa: RUF009 frozen, as the next
    space: Space = Pixels()  # noqa: RUF009
    autoencoder: Source | None = None
    sigma_data: float = 0.5
    learned_variance: bool = False

    asks_captions: ClassVar[bool] = False  # whether labels are texts
    drawing_only: ClassVar[tuple[str, ...]] = (AUTOENCODER,)  # training is told of latents
    specs: ClassVar[dict[str, Any]] = {
        "model": diffjax.models,
        "schedule": diffjax.schedules,
        "condition": diffjax.conditions,
        "space": diffjax.spaces,
    }

    def __post_init__(self) -> None:
        if not isinstance(self.model, Backbone):
            raise UserError(
                f"{spec.render(self.model)} predicts no noise: choose a backbone", option="model"
            )
        if self.space.needs_autoencoder != (self.autoencoder is not None):
            needed = "lacks an autoencoder" if self.space.needs_autoencoder else "needs none"
            raise UserError(f"space {spec.render(self.space)} {needed}")
        rows, steps = self.model.time_rows, self.schedule.steps
        if rows is not None and rows < steps:
            raise UserError(
                f"the network's time embedding has {rows} rows and the schedule {steps} steps: "
                f"give it num_train_timesteps={steps}"
            )
        self.process  # noqa: B018 - refuses what does not go together
        self.shape  # noqa: B018

    @property
    def consistent(self) -> bool:
        """Whether a consistency model is learnt."""
        return False

    @cached_property
    def process(self) -> Process:
        """The network's process, and how its output is read."""
        return Process(
            self.schedule,
            self.target,
            sigma_data=self.sigma_data,
            learned_variance=self.learned_variance,
            consistent=self.consistent,
            average=self.model.told_spans,
            time_input=self.model.time_input,
        )

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """The shape of x0."""
        return self.space.shape(self.image_shape)

    @property
    def batch_keys(self) -> tuple[str, ...]:
        own = MOMENTS if self.space.needs_autoencoder else "image"
        return (own, *self.condition.batch_keys)

    def networks(self) -> dict[str, nn.Module]:
        return {DENOISER: self.model}

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        """The network's parameters, and under "schedule" a learnt schedule's."""
        cond = self.condition.example(1)
        given = () if cond is None else (cond,)
        params = self.model.init(key, jnp.zeros((1, *self.shape)), jnp.zeros((1,)), *given)
        learnt = self.schedule.init(jax.random.fold_in(key, 0))
        tree = params["params"]
        return {DENOISER: tree if learnt is None else {**tree, "schedule": learnt}}

    def encoded(
        self, components: Mapping[str, Component], params: Mapping[str, Params], keys: Keys,
        batch: Mapping[str, Array],
    ) -> Mapping[str, Array]:  # fmt: skip
        """The batch with x0 as its images; `params` are data of a compiled step.

        Latents are drawn from the batch's moments, or where it has images from theirs.
        """
        if isinstance(self.space, Latents) and MOMENTS in batch:
            mean, log_variance = jnp.split(batch[MOMENTS], 2, axis=-1)
            return {**batch, "image": self.space.drawn(keys, mean, log_variance)}
        stage = None
        if self.space.needs_autoencoder:
            stage = stage_of(components[AUTOENCODER].model, params[AUTOENCODER])
        return {**batch, "image": self.space.encode(keys, batch["image"], stage)}

    def x0_of(
        self, components: Mapping[str, Component], images: Float[np.ndarray, "N H W C"]
    ) -> Float[np.ndarray, "N h w c"]:
        """x0 of images in [-1, 1], with nothing drawn."""
        if not self.space.needs_autoencoder:
            return images
        stage = components[AUTOENCODER]
        centre = centring(self.space, stage.model)
        found: np.ndarray = in_batches(
            lambda rows: centre(stage.params, jnp.asarray(rows)), images, min(len(images), 32)
        )
        return found

    def shown_to(self, components: Mapping[str, Component], judged: Judged) -> Judged:
        """Guidance by a network that knows images, in the space of x0."""
        if not self.space.needs_autoencoder:
            return judged
        stage = components[AUTOENCODER]
        params = {"judge": judged.params, "stage": stage.params}
        judge = Decoded(judged.judge, Decoding(self.space, stage.model))  # type: ignore[arg-type]
        return judged._replace(judge=judge, params=params)

    def decoder(self, components: Mapping[str, Component], batch_size: int) -> Decode:
        """A function from x0 to images, in batches."""
        if not self.space.needs_autoencoder:
            return lambda x0: x0
        stage = components[AUTOENCODER]
        decode = decoding(self.space, stage.model)
        return lambda x0: in_batches(
            lambda rows: decode(stage.params, jnp.asarray(rows)), x0, batch_size
        )

    def drawn(
        self, draw: Draw, components: Mapping[str, Component], key: Key[Array, ""], num: int,
        batch_size: int, times: Float[Array, "T"], cond: Cond, guidance: Guidance = UNGUIDED,
    ) -> Samples:  # fmt: skip
        """What `draw` makes of the components' weights (`generate`), decoded."""
        params = components[DENOISER].params
        x0, film = generate(draw, params, key, num, batch_size, times, cond, guidance)
        decode = self.decoder(components, min(batch_size, num))
        frames = decode(film.reshape(-1, *film.shape[2:]))
        moments = frames.reshape(*film.shape[:2], *frames.shape[1:])
        return Samples(jnp.clip(decode(x0), -1, 1), jnp.asarray(moments))

    def cond_of(self, components: Mapping[str, Component], values: Labels | None, num: int) -> Cond:
        """The condition of `num` samples from what a person asks for, as `Condition.asked`."""
        return self.condition.asked(values, num)

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Draws the same noise with the weights it is given; `shown` are Pictures."""
        sampler, num = shown.sampler, shown.num
        cond = self.cond_of(frozen, shown.labels, num)
        guidance = self.guided(shown.guidance, cond, num)
        draw = make_draw(self.model, self.process, sampler, self.shape, limit=self.space.limit)

        texts = in_turn(shown.labels, num).tolist() if self.asks_captions else ()

        def picture(step: int, params: Params) -> None:
            own = params[DENOISER]
            times = times_of(self.process, own, shown.spacing or sampler.spacing, shown.steps)
            components = {**frozen, DENOISER: Component(self.model, own)}
            key = jax.random.key(shown.seed)
            images, film = self.drawn(draw, components, key, num, num, times, cond, guidance)
            save_grid(folder.picture(step), to_uint8(np.asarray(images)), texts)
            save_film(folder.film, to_uint8(np.asarray(film)))

        return picture

    def sample(
        self, components: Mapping[str, Component], key: Key[Array, ""], asked: Asked
    ) -> Samples:
        """Images by the asked sampler and guidance. Raises UserError for what the run cannot do."""
        num, sampler, guidance = asked.count, asked.sampler, asked.guidance
        chosen = spec.build(sampler, diffjax.samplers) if isinstance(sampler, str) else sampler
        cond = self.cond_of(components, asked.labels, num)
        if not isinstance(guidance, Guidance):
            unwanted = None
            if asked.negative is not None:
                unwanted = self.cond_of(components, asked.negative, num)
            guidance = self.guided(guidance, cond, num, unwanted)
        draw = self.draw_with(chosen, asked.batch_size)
        params = components[DENOISER].params
        times = times_of(self.process, params, asked.spacing or chosen.spacing, asked.steps)
        return self.drawn(draw, components, key, num, asked.batch_size, times, cond, guidance)

    def draw_with(self, sampler: Sampler, batch_size: int) -> Draw:
        """What `drawn` takes, for that many images at a time; a second call compiles nothing."""
        return drawing(self.model, self.process, sampler, self.shape, limit=self.space.limit)

    def guided(self, scale: Scales, cond: Cond, num: int, unwanted: Cond = None) -> Guidance:
        """Guidance away from the null condition, or an unwanted one; none at a scale of 1.

        Raises UserError for a network that was taught no null condition.
        """
        if (np.asarray(scale) == 1).all():
            if unwanted is not None:
                raise UserError("negative does nothing at guidance 1: choose a scale")
            return Guidance()
        return self.away(scale, cond, num, unwanted)

    def away(
        self, scale: Scales, cond: Cond, num: int, unwanted: Cond = None,
        weak: Params | None = None,
    ) -> Guidance:  # fmt: skip
        """As `guided`, also at a scale of 1; weak: weights of the denoiser to go away from."""
        if np.shape(scale) not in ((), (num,)) or not are_scales(scale):
            raise UserError(f"guidance={scale}: give one finite scale, or {num} of them")
        if unwanted is None and weak is None:
            unwanted = self.condition.unwanted(cond)
        return Guidance(Away(jnp.full(num, np.asarray(scale, np.float32)), unwanted, weak))


@dataclasses.dataclass(frozen=True)
class Decoding:
    """(The autoencoder's params, x0) -> images; equal for equal spaces and networks."""

    space: Space
    model: nn.Module

    def __call__(self, params: Params, x0: Latent) -> Images:
        return self.space.decode(x0, stage_of(self.model, params))


@functools.lru_cache(maxsize=16)
def decoding(space: Space, model: nn.Module) -> Callable[[Params, Latent], Images]:
    """A compiled `Decoding`; a second call compiles nothing."""
    return jax.jit(Decoding(space, model), compiler_options=cpu_options(LARGE))


@functools.lru_cache(maxsize=16)
def centring(space: Space, model: nn.Module) -> Callable[[Params, Images], Latent]:
    """A compiled (the autoencoder's params, images) -> x0; a second call compiles nothing."""

    def centre(params: Params, images: Images) -> Latent:
        return space.centre(images, stage_of(model, params))

    return jax.jit(centre, compiler_options=cpu_options(LARGE))


def stage_of(model: Any, params: Params) -> Autoencoder:
    """Both ways of a network with `encode` and `decode`, whose weights are data."""
    variables = {"params": params}
    return Autoencoder(
        lambda images: model.apply(variables, images, method="encode"),
        lambda z: model.apply(variables, z, method="decode"),
    )
