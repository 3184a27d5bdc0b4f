"""Guidance: functions from one denoiser, or a pair, to another."""

from diffjax.guidance.base import Pair, doubled, guided, in_interval, versus
from diffjax.guidance.classifier import ClassLogProb, classifier_guidance, on_x0
from diffjax.guidance.decoded import Decoded
from diffjax.guidance.rules import adaptive_projected, classifier_free, rescaled
from diffjax.guidance.similarity import Similarity
from diffjax.guidance.thresholds import clip_x0, dynamic_threshold

__all__ = [
    "ClassLogProb",
    "Decoded",
    "Pair",
    "Similarity",
    "adaptive_projected",
    "classifier_free",
    "classifier_guidance",
    "clip_x0",
    "doubled",
    "dynamic_threshold",
    "guided",
    "in_interval",
    "on_x0",
    "rescaled",
    "versus",
]
