"""Trains a generator against a discriminator, draws what it makes, and counts what it leaves out.

python -m experiments.gan --flagfile=experiments/flagfiles/gan_fashion_mnist.flags --judge=RUN
The judge, a run of experiments.classifier, says which of the classes are drawn, and how often.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, Int

import diffjax.models.gan
from diffjax import spec
from diffjax.data import Records, images
from diffjax.display.images import save_film, save_grid, write_whole
from diffjax.editing.interpolation import slerp
from diffjax.errors import UserError
from diffjax.generate import FILM_FRAMES, FILM_IMAGES
from diffjax.metrics.judge import (
    Opinion,
    agreement,
    check_knows,
    class_shares,
    confidence,
    make_judge,
)
from diffjax.objectives.adversarial import GAMES, adversarial_loss, two_time_scales
from diffjax.trained import Judge, load_judge
from diffjax.trained_gan import TrainedGAN, build, draw, init_params, latents, make_draw
from diffjax.training.parallel import on_one_device
from diffjax.training.run import RunConfig, RunFolder
from diffjax.training.step import LossFn
from diffjax.typing import Params
from experiments import training
from experiments.flags import presets, specs
from experiments.start import command

flags.adopt_module_key_flags(training)
# What a run is, besides training.IDENTITY; --learning_rate is the generator's.
MODEL = specs.define_spec("model", "dcgan", diffjax.models.gan, "the two networks")
LOSS = flags.DEFINE_enum("loss", "non_saturating", list(GAMES), "what each of them loses")
R1 = flags.DEFINE_float(
    "r1", 1.0, "how much the discriminator's slope at real images costs; 0 is not at all", 0
)
DISCRIMINATOR_RATE = flags.DEFINE_float(
    "discriminator_rate", 4e-4, "its own rate, where --learning_rate is the generator's", 0
)
# What is shown of it: free to change when the run is taken up again.
SAMPLE_EVERY = flags.DEFINE_integer("sample_every", 500, "steps to a picture", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 100, "images in a picture", lower_bound=1)
JUDGE = flags.DEFINE_string(
    "judge", None, "a run of experiments.classifier, which counts the classes drawn in the end"
)
GAN = (LOSS, R1, DISCRIMINATOR_RATE)
OWN = (MODEL, *GAN, SAMPLE_EVERY, NUM_SAMPLES, JUDGE)
presets.define_preset(
    smoke={
        "model": "dcgan(channels=(32,16))", "batch_size": 16, "steps": 60, "log_every": 20,
        "checkpoint_every": 60, "sample_every": 30, "num_samples": 25,
    }
)  # fmt: skip

JUDGED = 1000  # images; of real ones no more than are held out of training
SEEN = 0.02  # of them: from this share on a class counts as drawn
JUDGE_BATCH = 100


def main() -> None:
    with training.processes():
        records = training.open_records()
        config = describe(records)
        model, loss_fn = build(config), make_loss(config)
        census = None if JUDGE.value is None else make_census(JUDGE.value, config, records)
        with training.run_folder(config, training.flags_text("gan", OWN)) as run:
            task = training.Task(
                lambda key: init_params(model, key),
                loss_fn,
                ("image",),
                make_picture(run, model, NUM_SAMPLES.value, training.SEED.value),
                SAMPLE_EVERY.value,
                two_time_scales(
                    training.LEARNING_RATE.value, DISCRIMINATOR_RATE.value,
                    warmup_steps=training.WARMUP_STEPS.value,
                ),
            )  # fmt: skip
            state = training.train_run(run, records, task)
            step = int(state.step)
            if step < training.STEPS.value:
                training.say(f"stopped at step {step}: the same command goes on from there")
                return
            if census is not None and training.first_process():
                params = on_one_device(state.eval_params)
                census(TrainedGAN(config, model, step, params), run.path / "coverage.json")
            training.say(f"done: step {step}, see {run.report}")


def describe(records: Records) -> RunConfig:
    """This run's config: the flags, and what follows from the data."""
    if training.GRAD_CLIP.value != training.GRAD_CLIP.default:
        raise UserError(
            "--grad_clip would let one network's gradient shorten the other's step: leave it out"
        )
    height, width, channels = records.image_shape
    if height != width:
        raise UserError(f"images of {height}x{width} are not square: give an --image_size")
    wanted = {"sample_size": height, "image_channels": channels}
    model = training.build_for(MODEL.value, diffjax.models.gan, wanted)
    return RunConfig(
        experiment="gan",
        model=spec.render(model),
        image_shape=records.image_shape,
        num_classes=None,
        training={**training.identity(), **{flag.name: flag.value for flag in GAN}},
    )


def make_loss(config: RunConfig) -> LossFn:
    """What the run minimises."""
    model = build(config)
    return adversarial_loss(
        lambda params, z: model.apply({"params": params}, z, method="generate"),
        lambda params, x: model.apply({"params": params}, x, method="discriminate"),
        model.latent,
        game=GAMES[LOSS.value],
        r1=R1.value,
    )


def make_picture(run: RunFolder, model: Any, num: int, seed: int) -> Callable[[int, Params], None]:
    """A function that draws the same latents with the weights it is given: a grid and a film.

    In the film each image of the grid turns into the next, along the great circle between latents.
    """
    drawn, z = make_draw(model), latents(model, seed, num)
    walk = between(z[:FILM_IMAGES], FILM_FRAMES)

    def picture(step: int, params: Params) -> None:
        save_grid(run.samples / f"step_{step:08d}.png", drawn(params, z))
        frames = drawn(params, walk.reshape(-1, model.latent))
        save_film(run.film, frames.reshape(*walk.shape[:2], *frames.shape[1:]))

    return picture


def between(z: Float[Array, "N L"], frames: int) -> Float[Array, "F N L"]:
    """From each latent to the next one, and from the last to the first."""
    a, b = (rows[:, None, None] for rows in (z, jnp.roll(z, -1, axis=0)))
    walk = jax.vmap(lambda share: slerp(a, b, jnp.full(len(z), share)))(jnp.linspace(0, 1, frames))
    return walk[:, :, 0, 0]


def make_census(
    folder: str, config: RunConfig, records: Records
) -> Callable[[TrainedGAN, pathlib.Path], None]:
    """A function that asks the judge in `folder` which classes are drawn, and saves and prints it.

    Beside it stands what the judge says of real images. Raises UserError for a judge of other
    images or classes, also where this shows in nothing but its answers.
    """
    judge = load_judge(folder)
    check_form(folder, judge.config, records)
    look = make_judge(judge.model.apply, JUDGE_BATCH)
    (logits, labels), of_its_own = (
        answers(judge, look, training.open_held_out(c)) for c in (config, judge.config)
    )
    check_knows(logits, labels, *of_its_own)
    real = {"num": len(labels), **opinion(logits), "agreement": agreement(logits, labels)}
    names = records.class_names or [str(i) for i in range(len(real["class_shares"]))]

    def census(trained: TrainedGAN, path: pathlib.Path) -> None:
        drawn = images.scaled(draw(trained, training.SEED.value, JUDGED))
        samples = {"num": JUDGED, **opinion(look(judge.params, drawn).logits)}
        about = {"step": trained.step, "judge": folder, "judge_step": judge.step}
        text = json.dumps({**about, "samples": samples, "real": real}, indent=2) + "\n"
        write_whole(path, lambda part: part.write_text(text))
        for row in table(samples, real, names):
            training.say("{:<34}{:>10}{:>10}".format(*row))

    return census


def answers(
    judge: Judge, look: Callable[..., Opinion], held_out: Records
) -> tuple[Float[np.ndarray, "N K"], Int[np.ndarray, "N"]]:
    """The judge's logits of real images, and their labels."""
    order = np.random.default_rng(training.SEED.value).permutation(len(held_out))[:JUDGED]
    rows = [held_out[int(i)] for i in order]
    logits = look(judge.params, np.stack([row["image"] for row in rows])).logits
    return logits, np.stack([row["label"] for row in rows])


def check_form(folder: str, judged: RunConfig, records: Records) -> None:
    """Raises UserError for a judge of images or classes of another number."""
    again = "train a judge with this --dataset and --image_size"
    if judged.image_shape != records.image_shape:
        drawn, known = ("x".join(map(str, s)) for s in (records.image_shape, judged.image_shape))
        raise UserError(
            f"--judge={folder} knows images of {known}, and these have {drawn}: {again}"
        )
    if judged.num_classes != records.num_classes:
        raise UserError(
            f"--judge={folder} knows {judged.num_classes} classes, and --dataset has "
            f"{records.num_classes or 'none'}: {again}"
        )


def opinion(logits: Float[np.ndarray, "N K"]) -> dict[str, Any]:
    """What a judge says of images: how sure it is, and which classes it sees."""
    shares = class_shares(logits)
    return {
        "confidence": confidence(logits),
        "classes": int((shares >= SEEN).sum()),
        "class_shares": shares.tolist(),
    }


def table(
    samples: dict[str, Any], real: dict[str, Any], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Title, drawn images' and real ones' column, row by row."""
    shares = zip(names, samples["class_shares"], real["class_shares"], strict=True)
    return [
        ("", "drawn", "real"),
        ("images", str(samples["num"]), str(real["num"])),
        ("judge's confidence", f"{samples['confidence']:.3f}", f"{real['confidence']:.3f}"),
        ("judge agrees with label", "-", f"{real['agreement']:.3f}"),
        (f"classes with {SEEN:.0%} or more", str(samples["classes"]), str(real["classes"])),
        *((f"share of {name}", f"{drawn:.3f}", f"{own:.3f}") for name, drawn, own in shares),
    ]


if __name__ == "__main__":
    command.run(main)
