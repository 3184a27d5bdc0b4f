"""Trains a CLIP on captioned images: which text and which image belong together; and asks it.

python -m experiments.clip --flagfile=experiments/flagfiles/clip_captions.flags
python -m experiments.clip --task=retrieval --clip=DIR            the right one of 100, both ways
python -m experiments.clip --task=zero_shot --clip=DIR            classes, from their names alone
python -m experiments.clip --task=caption --clip=DIR --images=DIR2
python -m experiments.clip --task=page --clip=DIR                 a page to try it on
"""

import dataclasses
import pathlib
import typing
from collections.abc import Callable
from typing import Any

from absl import flags

import diffjax.models
from diffjax import runs
from diffjax.data import Records, Split
from diffjax.data.tokenised import Tokenised
from diffjax.editing.pictures import read_pictures
from diffjax.errors import UserError
from diffjax.interop import load_tokenizer
from diffjax.objectives.contrastive import Contrast
from diffjax.tasks.contrastive import HIGHEST_SCALE, Contrastive
from diffjax.tasks.matching import Exam
from diffjax.tasks.towers import Towers
from diffjax.training.optimizers import for_contrast
from experiments.evaluations.saved import save
from experiments.flags import kinds, learning, out_folder, presets, specs
from experiments.matches import caption, gallery, recall, zero_shot
from experiments.matches.paired import captions_of
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
    "colour", 0.05, "change brightness, contrast and saturation by up to this share", 0, 1
)
WORDS = kinds.define_number("words", 0.1, "the share of tokens that are left out of texts", 0)
# What is shown of it: free to change when the run is taken up again.
EVAL_EVERY = kinds.define_integer("eval_every", 250, "steps to held-out figures", lower_bound=1)
# What a trained CLIP is asked.
EVERY = ("retrieval", "zero_shot", "caption", "page")
TASK = flags.DEFINE_enum(
    "task", "train", ["train", *EVERY],
    "train a CLIP; or, of --clip and held-out images: the right caption and image among 100; their "
    "classes; the caption that fits best; a page to try it on",
)  # fmt: skip
CLIP = kinds.define_path(
    "clip", None, "what --task asks: a run's folder, or what dj.load_clip reads"
)
SPLIT = flags.DEFINE_enum(
    "split", "test", ["test", "train"], "which images --task is about: held out, or trained on"
)
IMAGES = kinds.define_path("images", None, "with --task=caption: an image or a folder of images")
CAPTIONS = flags.DEFINE_multi_string(
    "caption", None, "with --task=caption: a caption to choose from; by default all of --split"
)
TEMPLATES = flags.DEFINE_multi_string(
    "template", ["{}", "a picture of {}", "{} emoji"], "with --task=zero_shot: around class names"
)
NUM = kinds.define_integer("num", 500, "images on the page", lower_bound=1)
OUT = kinds.define_path("out", None, "the folder to write; by default that of --clip")
ASKING = (
    (CLIP, EVERY), (SPLIT, EVERY), (IMAGES, ("caption",)), (CAPTIONS, ("caption",)),
    (TEMPLATES, ("zero_shot",)), (NUM, ("page",)), (OUT, EVERY),
)  # fmt: skip
READ = {
    flag.name for flag in (learning.DATASET, learning.IMAGE_SIZE, learning.SEED, learning.DATA_DIR)
}
OWN = (
    VISION, TEXT, DIM, LOSS, WEIGHT_DECAY, FLIP, SHIFT, ZOOM, COLOUR, WORDS, EVAL_EVERY,
)  # fmt: skip
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 20, "log_every": 10, "checkpoint_every": 20, "eval_every": 10
    }
)  # fmt: skip


def main() -> None:
    check_flags()
    if TASK.value == "train":
        train()
    else:
        ask()


def check_flags() -> None:
    """Raises UserError for a flag that --task does not read."""
    for flag, tasks in ASKING:
        if flag.present and TASK.value not in tasks:
            raise UserError(f"--{flag.name} does nothing without --task={' or '.join(tasks)}")
    if TASK.value == "train":
        return
    for flag in (*OWN, *learning.IDENTITY, *learning.FREE, *learning.ONCE):
        if flag.present and flag.name not in READ:
            raise UserError(f"--{flag.name} does nothing with --task={TASK.value}: leave it out")
    if CLIP.value is None:
        raise UserError(f"--task={TASK.value} needs --clip, a run of this program or a CLIP folder")
    if TASK.value == "caption" and IMAGES.value is None:
        raise UserError("--task=caption needs --images, an image or a folder of images")


def train() -> None:
    """Trains the CLIP that the flags describe."""
    with learning.processes():
        learning.refuse_optimizers("where CLIP's own AdamW falls along a cosine")
        flags.FLAGS.set_default(learning.DATASET.name, "captions")
        records = learning.open_records()
        task = describe(records)
        exam = Exam(
            learning.open_held_out(), records, learning.MAX_BAD_RECORDS.value, learning.say,
            learning.SEED.value,
        )  # fmt: skip
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


def ask() -> None:
    """What a trained CLIP makes of held-out images, on the terminal and in a file."""
    towers, records = runs.load_towers(CLIP.value), open_asked()
    path = pathlib.Path(CLIP.value)
    out = out_folder.made(pathlib.Path(OUT.value or (path if path.is_dir() else path.parent)))
    if TASK.value == "page":
        gallery.write(out / "match.html", towers, records, NUM.value)
        print(f"page: {out / 'match.html'}")
        return
    found = ASKED[TASK.value](towers, records)
    print(save(out / "matching.json", {TASK.value: found}))


def open_asked() -> Records:
    """The images of --dataset, or of the run's own set, in the run's size unless one is given."""
    flags.FLAGS.set_default(learning.DATASET.name, "captions")
    asked = learning.training()
    if runs.is_run(CLIP.value):
        own = runs.open_run(CLIP.value)[1].training
        given: dict[str, Any] = {
            flag.name: flag.value
            for flag in (learning.DATASET, learning.IMAGE_SIZE)
            if flag.present
        }
        asked = dataclasses.replace(own, **given)
    return asked.open(typing.cast(Split, SPLIT.value), learning.DATA_DIR.value)


def ask_retrieval(towers: Towers, records: Records) -> dict[str, Any]:
    """The right one among 100, both ways."""
    return recall.report(towers, records, learning.SEED.value, print)


def ask_classes(towers: Towers, records: Records) -> dict[str, Any]:
    """Held-out images' classes from the names alone."""
    return zero_shot.report(towers, records, TEMPLATES.value, print)


def ask_captions(towers: Towers, records: Records) -> dict[str, Any]:
    """The captions that fit images best."""
    tower = towers.model.vision_model
    if tower is None:
        raise UserError(f"--clip={CLIP.value} has no image tower: give another")
    texts = CAPTIONS.value or captions_of([records[i] for i in range(len(records))])
    size = tower.image_size
    pictures = read_pictures(IMAGES.value, (size, size, tower.num_channels))
    found = caption.best_captions(towers, pictures, texts, 5)
    for number, matches in enumerate(found):
        fitting = ", ".join(f"{match.caption} ({match.share:.0%})" for match in matches)
        print(f"image {number}: {fitting}")
    return {"towers": towers.name, "images": [[m._asdict() for m in row] for row in found]}


ASKED: dict[str, Callable[[Towers, Records], dict[str, Any]]] = {
    "retrieval": ask_retrieval,
    "zero_shot": ask_classes,
    "caption": ask_captions,
}


if __name__ == "__main__":
    command.run(main)
