"""The flag that has pictures signed, and what their credentials tell."""

from typing import Any

from absl import flags

from diffjax.errors import UserError
from diffjax.runs import run_around
from diffjax.trust.identity import Identity
from experiments.flags import kinds, watermarking

SIGN = kinds.define_path(
    "sign", None,
    "a folder with chain.pem and key.pem, by which each picture is signed with Content "
    "Credentials; experiments.audit --task=make_ca makes one for trying",
)  # fmt: skip
KEPT = ("flagfile", watermarking.WATERMARK.name)


def identity() -> Identity | None:
    """Who signs; None for nobody. Raises UserError for a folder that holds no usable key.

    A key in a run's folder would be given away with the run.
    """
    if SIGN.value is None:
        return None
    if (run := run_around(SIGN.value)) is not None:
        raise UserError(f"--sign={SIGN.value} lies in the run {run}: keep keys elsewhere")
    return Identity.read(SIGN.value)


def generation(model: str, weights: str, seed: int) -> dict[str, Any]:
    """What credentials tell: the model's name, the digest of its weights, flags and seed.

    Flags that name a place on this machine, and a watermark's secret, are left out.
    """
    given = [flags.FLAGS[name] for name in sorted(flags.FLAGS) if flags.FLAGS[name].present]
    told = [f for f in given if not isinstance(f.parser, kinds.PathParser) and f.name not in KEPT]
    return {
        "model": model,
        "checkpoint": weights,
        "flags": [flag.serialize() for flag in told],
        "seed": seed,
    }
