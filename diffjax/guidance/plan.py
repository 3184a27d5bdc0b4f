"""All of a network's guidance at once, with what may change from draw to draw as arrays."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax.conditions.base import rows_of
from diffjax.errors import UserError
from diffjax.guidance.base import Pair, Scale, doubled, guided, in_interval, versus
from diffjax.guidance.classifier import ClassLogProb, classifier_guidance, on_x0
from diffjax.guidance.decoded import Decoded
from diffjax.guidance.rules import adaptive_projected, rescaled
from diffjax.guidance.similarity import Similarity
from diffjax.guidance.thresholds import clip_x0, dynamic_threshold
from diffjax.process import Averaged, Process
from diffjax.schedules.base import Schedule
from diffjax.typing import Apply, Cond, Denoiser, Images, Params

Number = Float[Array, ""] | float


class Away(NamedTuple):
    """Guidance away from an unwanted prediction; the numbers' defaults leave each part off.

    cond is what the unwanted prediction is conditioned on. params are the weights it comes from: a
    weak network's, or earlier ones; by default the network's own, under that other condition.
    """

    scale: Scale
    cond: Cond
    params: Params | None = None
    low: Number = 0.0
    high: Number = math.inf
    rescale: Number = 0.0
    eta: Number = 1.0
    threshold: Number = math.inf


class Judged(NamedTuple):
    """Guidance by the gradient of what a network says of clean images, towards `targets`.

    judge(params, images, targets) stands for log p(target | image). The targets of `ClassLogProb`
    are labels, those of `Similarity` embeddings. Another judge compiles anew.
    """

    judge: ClassLogProb | Similarity | Decoded
    params: Params
    scale: Scale
    targets: Int[Array, "B"] | Float[Array, "B D"]


class Guidance(NamedTuple):
    """Which guidance a draw has. Arrays may change at no cost; a part more or less compiles anew.

    With a percentile x0 is bounded by dynamic thresholding, without one by clipping.
    """

    away: Away | None = None
    judged: Judged | None = None
    percentile: Number | None = None

    def rows(self, index: Int[Array, "M"]) -> "Guidance":
        """The guidance of those samples alone."""

        away, judged = self.away, self.judged
        if away is not None:
            away = away._replace(scale=_rows(away.scale, index), cond=rows_of(away.cond, index))
        if judged is not None:
            scale = _rows(judged.scale, index)
            judged = judged._replace(scale=scale, targets=judged.targets[index])
        return self._replace(away=away, judged=judged)

    def by_sample(self, sample: Any, whole: Any) -> "Guidance":
        """A prefix of this tree: `sample` for arrays of one row a sample, `whole` for the rest."""

        def of(scale: Scale) -> Any:
            return sample if scale.ndim else whole

        away, judged = self.away, self.judged
        if away is not None:
            every = Away(*[whole] * len(Away._fields))
            away = every._replace(scale=of(away.scale), cond=sample)
        if judged is not None:
            judged = Judged(judged.judge, whole, of(judged.scale), sample)
        return Guidance(away, judged, whole)


def _rows(scale: Scale, index: Int[Array, "M"]) -> Float[Array, "..."]:
    return scale[index] if scale.ndim else scale


def guide(
    process: Process,
    apply: Apply,
    params: Params,
    cond: Cond,
    guidance: Guidance,
    *,
    limit: float | None = 1.0,
    weak: Apply | None = None,
) -> Denoiser:
    """The network's denoiser under `guidance`, x0 kept in [-limit, limit] where there is a limit.

    What a network of average velocity says is bound only where it is guided: it is no x0.
    `weak` is the network of guidance.away.params, by default `apply`. Raises UserError for
    thresholds and judges without a limit.
    """
    schedule = process.schedule
    denoise = process.denoiser(apply, params, cond)
    if (away := guidance.away) is not None:
        if away.params is None:
            pair = doubled(process, apply, params, cond, away.cond)
        else:
            pair = versus(denoise, process.denoiser(weak or apply, away.params, away.cond))
        denoise = _away(pair, schedule, away)
    if (judged := guidance.judged) is not None:
        if limit is None and not isinstance(judged.judge, Decoded):
            raise UserError("a judge looks at images, and this run draws latents: decode them")
        denoise = classifier_guidance(
            denoise, schedule, on_x0(denoise, _asked(judged), limit), judged.scale
        )
    if limit is None:
        if guidance.percentile is not None:
            raise UserError(
                "dynamic thresholding scales x0 to its bound, and latents have none: leave it out",
                option="dynamic_threshold",
            )
        return denoise
    if guidance.percentile is not None:
        return dynamic_threshold(denoise, schedule, jnp.asarray(guidance.percentile), limit)
    if isinstance(denoise, Averaged):
        return denoise
    return clip_x0(denoise, schedule, limit)


def _away(pair: Pair, schedule: Schedule, away: Away) -> Denoiser:
    low, high, phi, eta, threshold = map(
        jnp.asarray, (away.low, away.high, away.rescale, away.eta, away.threshold)
    )
    rule = rescaled(adaptive_projected(schedule, eta, threshold), schedule, phi)
    return guided(pair, in_interval(schedule, away.scale, low, high), rule)


def _asked(judged: Judged) -> Callable[[Images], Float[Array, "B"]]:
    return lambda images: judged.judge(judged.params, images, judged.targets)
