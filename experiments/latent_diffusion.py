"""Trains a diffusion model in the latents of a frozen first stage, and draws what it makes.

python -m experiments.latent_diffusion --first_stage=RUN
RUN is a run of experiments.vae, or a folder of diffusers' AutoencoderKL or VQModel. Latents are
computed once and kept. For images from texts: experiments.text_to_image --first_stage=RUN.
"""

import functools

from absl import flags

from experiments import ddpm
from experiments.flags import caching, first_stage, learning, presets
from experiments.start import command

flags.adopt_module_key_flags(learning)
flags.adopt_module_key_flags(ddpm)
flags.adopt_module_key_flags(first_stage)
presets.define_preset(smoke={"num_samples": 16})


def main() -> None:
    with learning.processes():
        first_stage.check_given()
        ddpm.repeat_course()
        ddpm.set_unit_variance()
        records, shape, options = first_stage.in_space(learning.open_records())
        task = ddpm.task_of(records, shape, **options)
        learning.train(
            task, records,
            learning.flags_text(
                "latent_diffusion", (*first_stage.OWN, caching.CACHE_DIR, *ddpm.OWN)
            ),
            ddpm.pictures(task), ddpm.SAMPLE_EVERY.value,
            loss=functools.partial(task.loss, remat=ddpm.REMAT.value),
        )  # fmt: skip


if __name__ == "__main__":
    command.run(main)
