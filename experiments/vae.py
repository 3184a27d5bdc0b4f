"""Trains an autoencoder, the first stage of latent diffusion, and measures what it gives back.

python -m experiments.vae --flagfile=experiments/flagfiles/vae_fashion_mnist.flags
"""

import dataclasses
import typing

import optax
from absl import flags

import diffjax.models
from diffjax import runs, spec
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.objectives.autoencoding import Likelihood
from diffjax.tasks.autoencoder import DISCRIMINATOR as DISCRIMINATOR_NAME
from diffjax.tasks.autoencoder import Autoencoding
from diffjax.tasks.examined import Exam
from experiments.flags import kinds, learning, presets, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
# What a run is, besides learning.IDENTITY.
MODEL = specs.define_spec("model", "vae", diffjax.models, "the network: vae, autoencoder_kl or vq")
LIKELIHOOD = flags.DEFINE_enum(
    "likelihood", "gaussian", list(typing.get_args(Likelihood)),
    "what decoded images are the mean of: a normal density of values, or its mass on 256 levels",
)  # fmt: skip
BETA = kinds.define_number(
    "beta", 1.0, "the weight of the latents' cost; 1 is the variational bound", lower_bound=0
)
PERCEPTUAL = kinds.define_number(
    "perceptual", 0.0, "the weight of a distance in the layers of --features; 0 is none", 0
)
FEATURES = kinds.define_path(
    "features", None,
    "with --perceptual: a file of AlexNet or VGG16 for LPIPS, or a run of experiments.classifier",
)  # fmt: skip
ADVERSARIAL = kinds.define_number(
    "adversarial", 0.0, "the weight of what a discriminator says of decoded images; 0 is none", 0
)
ADVERSARIAL_START = kinds.define_integer(
    "adversarial_start", 0, "steps before the discriminator counts", lower_bound=0
)
DISCRIMINATOR = specs.define_spec(
    "discriminator", "patch_discriminator(n_layers=2,channels=32)", diffjax.models,
    "the network that tells decoded images from real ones, with --adversarial",
)  # fmt: skip
DISCRIMINATOR_RATE = kinds.define_number(
    "discriminator_rate", 4e-4, "its learning rate, where --learning_rate is the autoencoder's", 0
)
# What is shown of it: free to change when the run is taken up again.
EVAL_EVERY = kinds.define_integer("eval_every", 500, "steps to held-out figures", lower_bound=1)
OWN = (
    MODEL, LIKELIHOOD, BETA, PERCEPTUAL, FEATURES, ADVERSARIAL, ADVERSARIAL_START, DISCRIMINATOR,
    DISCRIMINATOR_RATE, EVAL_EVERY,
)  # fmt: skip
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 40, "log_every": 10, "checkpoint_every": 40, "eval_every": 20
    }
)  # fmt: skip


def main() -> None:
    for flag in (ADVERSARIAL_START, DISCRIMINATOR, DISCRIMINATOR_RATE):
        if flag.present and not ADVERSARIAL.value:
            raise UserError(f"--{flag.name} does nothing without --adversarial")
    with learning.processes():
        records = learning.open_records()
        task = describe(records)
        exam = Exam(learning.open_held_out(), learning.say, learning.SEED.value)
        text = learning.flags_text("vae", OWN)
        learning.train(task, records, text, exam, EVAL_EVERY.value, optimizer=optimizer_of(task))


def describe(records: Records) -> Autoencoding:
    """This run's task: the flags, and what follows from the data."""
    height, width, channels = records.image_shape
    size = height if height == width else (height, width)
    filled = {"sample_size": size, "in_channels": channels, "out_channels": channels}
    return Autoencoding(
        model=spec.build(MODEL.value, diffjax.models, filled),
        image_shape=records.image_shape,
        likelihood=typing.cast(Likelihood, LIKELIHOOD.value),
        beta=BETA.value,
        perceptual=PERCEPTUAL.value,
        features=FEATURES.value and runs.features_of(FEATURES.value),
        adversarial=ADVERSARIAL.value,
        adversarial_start=ADVERSARIAL_START.value,
        discriminator=spec.build(DISCRIMINATOR.value, diffjax.models),
        discriminator_rate=DISCRIMINATOR_RATE.value,
    )


def optimizer_of(task: Autoencoding) -> optax.GradientTransformation | None:
    """One optimizer for each network where there is a discriminator; else None, the default."""
    if not task.adversarial:
        return None
    own = learning.training()
    rates = dict.fromkeys(task.networks(), learning.LEARNING_RATE.value)
    rates[DISCRIMINATOR_NAME] = task.discriminator_rate
    optimizers = {
        name: dataclasses.replace(own, learning_rate=rate).make_optimizer(learning.STEPS.value)
        for name, rate in rates.items()
    }
    return optax.partition(optimizers, {name: name for name in rates})


if __name__ == "__main__":
    command.run(main)
