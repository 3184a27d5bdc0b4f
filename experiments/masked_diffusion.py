"""Trains a network that draws the codes of a frozen first stage, each from a mask.

python -m experiments.masked_diffusion --first_stage=RUN
RUN is a run of experiments.vae whose model is a vq, or a folder of diffusers' VQModel.
"""

from absl import flags

import diffjax.models
from diffjax import runs, spec
from diffjax.errors import UserError
from diffjax.models.vq import VQModel
from diffjax.tasks.denoisers import AUTOENCODER
from diffjax.tasks.masked_codes import MaskedCodes, Pictures
from experiments.flags import caching, first_stage, kinds, learning, presets, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
flags.adopt_module_key_flags(first_stage)
MODEL = specs.define_spec(
    "model",
    "unet(block_out_channels=(64,),layers_per_block=2,down_block_types=('AttnDownBlock2D',),"
    "up_block_types=('AttnUpBlock2D',),norm_num_groups=8,attention_head_dim=16)",
    diffjax.models,
    "the network that tells what code a mask was",
)
NUM_CLASSES = kinds.define_count(
    "num_classes", 0, f"classes that the network is told of; {kinds.DATA} is those of --dataset"
)
SAMPLE_EVERY = kinds.define_integer("sample_every", 1000, "steps to a picture", lower_bound=1)
SAMPLE_STEPS = kinds.define_integer("sample_steps", 25, "its steps", lower_bound=1)
NUM_SAMPLES = kinds.define_integer("num_samples", 64, "images in a picture", lower_bound=1)
OWN = (MODEL, NUM_CLASSES, SAMPLE_EVERY, SAMPLE_STEPS, NUM_SAMPLES)
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 30, "log_every": 10, "checkpoint_every": 30,
        "sample_every": 30, "sample_steps": 5, "num_samples": 20,
    }
)  # fmt: skip


def main() -> None:
    with learning.processes():
        first_stage.check_given()
        source = runs.source_of(first_stage.FIRST_STAGE.value, AUTOENCODER)
        stage = runs.load_source(source).model
        if not isinstance(stage, VQModel):
            raise UserError(
                f"--first_stage={source.path} has no codes: give a run of experiments.vae whose "
                "model is a vq"
            )
        records = learning.open_records()
        classes = NUM_CLASSES.value
        if classes == kinds.DATA:
            classes = records.num_classes or 0
        if classes not in (0, records.num_classes):
            raise UserError(
                f"--num_classes={classes}, and {learning.DATASET.value} has "
                f"{records.num_classes or 'no'} classes: pass --num_classes={kinds.DATA} or 0"
            )
        found = first_stage.in_space(records)
        height, width, _ = found.shape
        told = {
            "in_channels": stage.num_vq_embeddings + 1, "out_channels": stage.num_vq_embeddings,
            "sample_size": height if height == width else (height, width),
            "num_class_embeds": classes or None, "num_embeds_ada_norm": classes or None,
        }  # fmt: skip
        model = spec.build(MODEL.value, diffjax.models, told)
        task = MaskedCodes(
            model=model, image_shape=records.image_shape, autoencoder=source,
            num_codes=stage.num_vq_embeddings, code_shape=(height, width),
            condition=model.takes().named(records.class_names),
        )  # fmt: skip
        shown = Pictures(SAMPLE_STEPS.value, NUM_SAMPLES.value, learning.SEED.value)
        text = learning.flags_text("masked_diffusion", (*first_stage.OWN, caching.CACHE_DIR, *OWN))
        learning.train(task, found.records, text, shown, SAMPLE_EVERY.value)


if __name__ == "__main__":
    command.run(main)
