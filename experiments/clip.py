"""Trains a CLIP on captioned images: which text and which image belong together.

python -m experiments.clip --flagfile=experiments/flagfiles/clip_captions.flags
"""

import typing

from absl import flags

import diffjax.models
from diffjax.data import Records
from diffjax.data.tokenised import Tokenised
from diffjax.errors import UserError
from diffjax.interop import load_tokenizer
from diffjax.objectives.contrastive import Contrast
from diffjax.tasks.contrastive import HIGHEST_SCALE, Contrastive
from diffjax.tasks.matching import Exam
from diffjax.training.optimizers import for_contrast
from experiments.flags import kinds, learning, presets, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
# What a run is, besides learning.IDENTITY.
VISION = specs.define_spec(
    "vision",
    "clip_vision(hidden_size=192,intermediate_size=768,num_hidden_layers=4,num_attention_heads=6,"
    "patch_size=8)",
    diffjax.models,
    "the image tower; by default a small one, for a CPU",
)
TEXT = specs.define_spec(
    "text",
    "clip_text(hidden_size=128,intermediate_size=512,num_hidden_layers=2,num_attention_heads=4,"
    "max_position_embeddings=20)",
    diffjax.models,
    "the text tower; max_position_embeddings is the length that texts are cut to",
)
DIM = kinds.define_integer("dim", 128, "numbers in an embedding", lower_bound=1)
LOSS = flags.DEFINE_enum(
    "loss", "softmax", list(typing.get_args(Contrast)),
    "CLIP's, of each pair against the whole batch, or SigLIP's, of each pair by itself",
)  # fmt: skip
WEIGHT_DECAY = kinds.define_number("weight_decay", 0.2, "AdamW's, of matrices alone", lower_bound=0)
FLIP = flags.DEFINE_boolean("flip", False, "turn images left to right every second time")
SHIFT = kinds.define_number("shift", 0.1, "move images by up to this share of their side", 0, 1)
ZOOM = kinds.define_number("zoom", 0.2, "enlarge or shrink images by up to 1 + this", 0, 8)
COLOUR = kinds.define_number(
    "colour", 0.3, "change brightness, contrast and saturation by up to this share", 0, 1
)
WORDS = kinds.define_number("words", 0.1, "the share of tokens that are left out of texts", 0)
# What is shown of it: free to change when the run is taken up again.
EVAL_EVERY = kinds.define_integer("eval_every", 250, "steps to held-out figures", lower_bound=1)
OWN = (
    VISION, TEXT, DIM, LOSS, WEIGHT_DECAY, FLIP, SHIFT, ZOOM, COLOUR, WORDS, EVAL_EVERY,
)  # fmt: skip
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 20, "log_every": 10, "checkpoint_every": 20, "eval_every": 10
    }
)  # fmt: skip


def main() -> None:
    with learning.processes():
        flags.FLAGS.set_default(learning.DATASET.name, "captions")
        records = learning.open_records()
        task = describe(records)
        exam = Exam(learning.open_held_out(), learning.say, learning.SEED.value)
        optimizer = for_contrast(
            learning.LEARNING_RATE.value, learning.STEPS.value,
            warmup_steps=learning.WARMUP_STEPS.value, grad_clip=learning.GRAD_CLIP.value,
            weight_decay=task.weight_decay, highest=HIGHEST_SCALE,
        )  # fmt: skip
        learning.train(
            task, Tokenised(records, task.tokenizer), learning.flags_text("clip", OWN), exam,
            EVAL_EVERY.value, optimizer=optimizer,
        )  # fmt: skip


def describe(records: Records) -> Contrastive:
    """This run's task: the flags, and what follows from the data."""
    height, width, channels = records.image_shape
    if height != width:
        raise UserError(f"images of {height}x{width} are not square: give an --image_size")
    of_images = {"image_size": height, "num_channels": channels}
    of_texts = {"vocab_size": load_tokenizer().end + 1}
    return Contrastive(
        vision=learning.build_for(VISION.value, diffjax.models, of_images, "vision"),
        text=learning.build_for(TEXT.value, diffjax.models, of_texts, "text"),
        image_shape=records.image_shape,
        dim=DIM.value,
        contrast=typing.cast(Contrast, LOSS.value),
        weight_decay=WEIGHT_DECAY.value,
        flip=FLIP.value,
        shift=SHIFT.value,
        zoom=ZOOM.value,
        colour=COLOUR.value,
        words=WORDS.value,
    )


if __name__ == "__main__":
    command.run(main)
