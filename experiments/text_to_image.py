"""Trains a diffusion model on a CLIP's embeddings of images, and draws from texts.

F=experiments/flagfiles/text_to_image_captions.flags
python -m experiments.text_to_image --clip=RUN --flagfile=$F
RUN is a run of experiments.clip, or a folder of a published CLIP.
"""

import dataclasses
import functools
import pathlib
import typing
from typing import Any

from absl import flags

from diffjax import runs
from diffjax.checksum import checksum
from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.tokens import Tokens
from diffjax.conditions.vector import Vector
from diffjax.data.skipping import read_all
from diffjax.data.told import ToldRecords
from diffjax.errors import UserError
from diffjax.models.backbone import Backbone
from diffjax.tasks.base import Source
from diffjax.tasks.embedding_cache import EmbeddingCache, Embeddings
from diffjax.tasks.text_to_image import (
    MODALITIES,
    TOKENS,
    Figures,
    TextToImage,
    Told,
    figures_of,
    fitted,
)
from diffjax.tasks.towers import CLIP_TOWERS, Towers
from experiments import ddpm
from experiments.flags import caching, first_stage, kinds, learning, presets
from experiments.start import command

flags.adopt_module_key_flags(learning)
flags.adopt_module_key_flags(ddpm)
flags.adopt_module_key_flags(first_stage)
# What a run is, besides ddpm's flags and learning.IDENTITY.
CLIP = kinds.define_path(
    "clip", None, "a run of experiments.clip, or a folder of CLIP's weights", required=True
)
TOLD = flags.DEFINE_enum(
    "told", "image", list(typing.get_args(Told)),
    "what training tells the network: the embedding of the image or of its text, or the states of "
    "the text's tokens, with those of the padding as in Stable Diffusion or without; drawing is "
    "always from texts",
)  # fmt: skip
NORMALISE = flags.DEFINE_boolean("normalise", True, "scale embeddings to one length")
SHIFT = flags.DEFINE_boolean(
    "shift", True, "subtract the means of images' and of texts' embeddings, which closes their gap"
)
NOISE = kinds.define_number(
    "noise", 0.0, "noise on embeddings in training, in units of their standard deviation", 0
)
# What is shown of it: free to change when the run is taken up again.
PREVIEW_GUIDANCE = kinds.define_number(
    "preview_guidance", 3.0, "how far the pictures are guided to their texts; 1 is off"
)
OWN = (CLIP, TOLD, NORMALISE, SHIFT, NOISE, PREVIEW_GUIDANCE, caching.CACHE_DIR, *first_stage.OWN)
presets.define_preset(smoke={"num_samples": 16})
# The default of --model, of which ddpm's takes no tokens.
TOKEN_MODEL = (
    "unet_condition(block_out_channels=(32,64,64),layers_per_block=1,"
    "down_block_types=('DownBlock2D','CrossAttnDownBlock2D','CrossAttnDownBlock2D'),"
    "up_block_types=('CrossAttnUpBlock2D','CrossAttnUpBlock2D','UpBlock2D'),"
    "norm_num_groups=8,attention_head_dim=4)"
)


def main() -> None:
    with learning.processes():
        set_defaults()
        ddpm.repeat_course()
        records = learning.open_records()
        towers = runs.load_towers(CLIP.value)
        source = Source(CLIP.value, CLIP_TOWERS, checksum(towers.params))
        learnt = first_stage.in_space(records)
        model = ddpm.fitted_model(learnt.records, learnt.shape, network_options(towers))
        condition = condition_of(model, towers)
        cache = EmbeddingCache(
            records, towers, source.digest,
            learning.data_named(), pathlib.Path(caching.CACHE_DIR.value),
            learning.MAX_BAD_RECORDS.value, learning.say,
        )  # fmt: skip
        told = typing.cast(Told, TOLD.value)
        embeddings = cache.load(told)
        task = TextToImage(
            model=model,
            condition=condition,
            clip=source,
            told=told,
            normalise=NORMALISE.value,
            shift=SHIFT.value,
            noise=NOISE.value,
            **figures(cache, embeddings),
            **ddpm.described(records),
            **learnt.options,
        )
        shown = dataclasses.replace(
            ddpm.pictures(task), labels=captions(), guidance=preview_guidance()
        )
        learning.train(
            task, ToldRecords(learnt.records, embeddings.told()),
            learning.flags_text("text_to_image", (*OWN, *ddpm.OWN)), shown,
            ddpm.SAMPLE_EVERY.value,
            loss=functools.partial(task.loss, remat=ddpm.REMAT.value),
        )  # fmt: skip


def set_defaults() -> None:
    """What this program has other defaults for. --course_compat stands for the course's way.

    Raises UserError for options of embeddings where tokens are told.
    """
    for option in (NORMALISE, SHIFT):
        if option.present and TOLD.value in TOKENS:
            raise UserError(f"--{option.name} does nothing with --told={TOLD.value}: leave it out")
    flags.FLAGS.set_default(learning.DATASET.name, "captions")
    flags.FLAGS.set_default(ddpm.COND_DROP.name, 0.1)
    if first_stage.FIRST_STAGE.value is not None:
        ddpm.set_unit_variance()
    if TOLD.value in TOKENS:
        flags.FLAGS.set_default(ddpm.MODEL.name, TOKEN_MODEL)
    if ddpm.COURSE_COMPAT.value:
        for flag, course in ((TOLD, "image"), (NORMALISE, False), (SHIFT, False), (NOISE, 0.0)):
            ddpm.settle(flag, [course])


def network_options(towers: Towers) -> dict[str, Any]:
    """The options of --model that the CLIP settles where they are left out."""
    if TOLD.value in TOKENS:
        return {"cross_attention_dim": towers.width}
    return {"cond_dim": towers.dim}


def condition_of(model: Backbone, towers: Towers) -> Condition:
    """What the network is told. Raises UserError where the CLIP says something else."""
    wanted, choice = (
        (Tokens, "unet_condition") if TOLD.value in TOKENS else (Vector, "unet or course_unet")
    )
    if not isinstance(model.takes(), wanted):
        raise UserError(
            f"--model={ddpm.MODEL.value} is not told what --told={TOLD.value} gives: choose a "
            f"{choice}"
        )
    condition = model.takes(ddpm.COND_DROP.value, typing.cast(Mask, ddpm.COND_MASK.value))
    if isinstance(condition, Tokens):
        condition = dataclasses.replace(
            condition, length=towers.tokenizer.length, padded=TOLD.value == "padded_tokens"
        )
    for kind, option, found, given in (
        (Vector, "cond_dim", getattr(condition, "dim", None), towers.dim),
        (Tokens, "cross_attention_dim", getattr(condition, "width", None), towers.width),
    ):
        if isinstance(condition, kind) and found != given:
            raise UserError(
                f"--model has {option}={found}, and the CLIP of --clip={CLIP.value} computes "
                f"{given} numbers: leave {option} out"
            )
    return condition


def figures(cache: EmbeddingCache, told_rows: Embeddings) -> Figures:
    """Means and spread of the training set's embeddings: those of the run, where it has begun.

    Or another machine's rounding would make another run of it.
    """
    told = typing.cast(Told, TOLD.value)
    needed = figures_of(told, SHIFT.value, NOISE.value)
    task = learning.begun_task()
    own = {name: getattr(task, name, ()) for name in needed}
    if task is not None and all(own.values()):
        return typing.cast(Figures, own)
    modalities = [m for m in MODALITIES if f"{m}_mean" in needed or (needed and m == told)]
    loaded = {m: told_rows if m == told else cache.load(m) for m in modalities}
    good = {modality: found.rows[found.good] for modality, found in loaded.items()}
    return fitted(
        good, told, normalise=NORMALISE.value, shift=SHIFT.value, noise=NOISE.value
    )  # fmt: skip


def preview_guidance() -> float:
    """The pictures' scale; 1 where nothing was hidden in training and none is asked for."""
    if PREVIEW_GUIDANCE.present or ddpm.COND_DROP.value:
        return float(PREVIEW_GUIDANCE.value)
    return 1.0


def captions() -> list[str]:
    """Different held-out captions, spread over the set, as many as there are pictures, or fewer."""
    held_out = learning.open_held_out()
    count = min(ddpm.NUM_SAMPLES.value, len(held_out))
    found = read_all(held_out, [i * len(held_out) // count for i in range(count)])
    return list(dict.fromkeys(record["text"] for record in found))


if __name__ == "__main__":
    command.run(main)
