"""The families of generative models that are compared: how each is trained, and how it draws.

All have a million parameters within a tenth, for grey images of 28x28 and coloured ones of 32x32
pixels. Whatever has to be trained is counted: a GAN's discriminator, the first stage of latents.
"""

import dataclasses
from collections.abc import Mapping

UNET = (
    "unet(block_out_channels=(32,64,64),layers_per_block=1,"
    "down_block_types=('DownBlock2D','DownBlock2D','DownBlock2D'),"
    "up_block_types=('UpBlock2D','UpBlock2D','UpBlock2D'),norm_num_groups=8,"
    "attention_head_dim=None,resnet_time_scale_shift='scale_shift'{more})"
)
FIRST_STAGE = (
    "vq(down_block_types=('DownEncoderBlock2D','DownEncoderBlock2D','DownEncoderBlock2D'),"
    "up_block_types=('UpDecoderBlock2D','UpDecoderBlock2D','UpDecoderBlock2D'),"
    "block_out_channels=(16,32,32),latent_channels=8,num_vq_embeddings=256,norm_num_groups=8,"
    "mid_block_add_attention=False,quantiser='ema(revive_below=0.1)')"
)
IN_LATENTS = (
    "unet(block_out_channels=({width},),layers_per_block=2,down_block_types=('AttnDownBlock2D',),"
    "up_block_types=('AttnUpBlock2D',),norm_num_groups=8,attention_head_dim=8,"
    "resnet_time_scale_shift='scale_shift')"
)
MUON = ("--optimizer=muon", "--learning_rate=0.002", "--batch_size=16")
DENOISER = (*MUON, "--num_classes=data", "--ema_decay=0.998")
PLAIN = (*DENOISER, f"--model={UNET.format(more='')}", "--schedule=cosine", "--target=v")
DIFFUSION = (*PLAIN, "--sampler=ddim(eta=1.0)")
# Of a student and its critic both count: each has half of the parameters.
HALF = f"--model={UNET.format(more='').replace('(32,64,64)', '(24,40,48)')}"
FLOW = (*DENOISER, "--schedule=flow", "--target=velocity")
AVERAGE = (*FLOW, f"--model={UNET.format(more=',spans=True')}")
ADAM = ("--learning_rate=0.001", "--ema_decay=0.995")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A program that trains, with its flags and its share of the time.

    before: the flag that names the folder of the stage before. pictures: the flags of its previews.
    widths: by height of the images, the numbers that the flags leave open as {}.
    """

    program: str
    flags: tuple[str, ...]
    share: float = 1.0
    before: str = ""
    pictures: tuple[str, ...] = ("--sample_every={steps}", "--num_samples=20")
    widths: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def fitted(self, side: int) -> "Stage":
        """With the widths of the nearest height."""
        if not self.widths:
            return self
        chosen = self.widths[min(self.widths, key=lambda known: abs(known - side))]
        return dataclasses.replace(self, flags=tuple(flag.format(*chosen) for flag in self.flags))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """How images are drawn: in so many steps by a sampler, where there are such."""

    steps: int | None = None
    sampler: str | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """What it is called, the stages of its training, and the ways in which it draws."""

    title: str
    stages: tuple[Stage, ...]
    draws: tuple[Drawn, ...] = (Drawn(),)

    def fitted(self, side: int) -> "Family":
        """For images of so many pixels a side."""
        return dataclasses.replace(self, stages=tuple(s.fitted(side) for s in self.stages))


def _in_steps(sampler: str, *steps: int) -> tuple[Drawn, ...]:
    return tuple(Drawn(count, sampler) for count in steps)


EVALUATED = ("--eval_every={steps}",)
CODES = Stage(
    "vae", (*ADAM, f"--model={FIRST_STAGE}", "--likelihood=gaussian", "--batch_size=64"), 0.5,
    pictures=EVALUATED,
)  # fmt: skip
FAMILIES = {
    "vae": Family("VAE", (
        Stage("vae", (
            *ADAM, "--model=vae(latent_channels=16,channels=(24,{}),norm_num_groups=4)",
            "--likelihood=levels", "--batch_size=64",
        ), pictures=EVALUATED, widths={28: (52,), 32: (48,)}),
    )),
    "gan": Family("GAN", (
        Stage("gan", (
            *ADAM, "--model=dcgan(latent=64,channels=({},96))", "--loss=non_saturating",
            "--r1=0.2", "--batch_size=32", "--discriminator_rate=0.001",
        ), widths={28: (192,), 32: (160,)}),
    )),
    "ddpm": Family(
        "diffusion", (Stage("ddpm", DIFFUSION),), _in_steps("ddim(eta=1.0)", 25, 50)
    ),
    "latent": Family("latent diffusion", (
        CODES,
        Stage("latent_diffusion", (
            *DENOISER, f"--model={IN_LATENTS.format(width=56)}", "--schedule=cosine", "--target=v",
            "--sampler=ddim(eta=1.0)",
        ), 0.5, "first_stage"),
    ), _in_steps("ddim(eta=1.0)", 25, 50)),
    "masked": Family("masked codes", (
        CODES,
        Stage(
            "masked_diffusion", (*DENOISER, f"--model={IN_LATENTS.format(width=48)}"), 0.5,
            "first_stage",
        ),
    ), (Drawn(25),)),
    "flow": Family("rectified flow", (
        Stage("ddpm", (*FLOW, f"--model={UNET.format(more='')}", "--sampler=flow_euler")),
    ), _in_steps("flow_heun", 25)),
    "mean_flow": Family("MeanFlow", (
        Stage("ddpm", (*AVERAGE, "--loss=mean_flow", "--sampler=flow_map")),
    ), _in_steps("flow_map", 1, 2, 4)),
    "shortcut": Family("shortcut model", (
        Stage("ddpm", (*AVERAGE, "--loss=shortcut", "--sampler=flow_map")),
    ), _in_steps("flow_map", 1, 2, 4)),
    "consistency_training": Family("consistency training", (
        Stage("ddpm", (*PLAIN, "--loss=consistency", "--sampler=consistency")),
    ), _in_steps("consistency", 1, 2)),
    "consistency": Family("consistency distillation", (
        Stage("ddpm", DIFFUSION, 0.6),
        Stage("distill", (
            "--method=consistency_distillation", "--intervals=16", "--student_steps=2",
            "--batch_size=16", "--learning_rate=0.0005", "--ema_decay=0.99",
        ), 0.4, "teacher"),
    ), _in_steps("consistency", 1, 2)),
    "distribution": Family("distribution matching", (
        Stage("ddpm", (*DIFFUSION, HALF), 0.5),
        Stage("distill", (
            "--method=distribution_matching", "--student_steps=1", "--batch_size=16",
            "--learning_rate=0.0002", "--ema_decay=0.99",
        ), 0.5, "teacher"),
    ), _in_steps("consistency", 1)),
}  # fmt: skip
