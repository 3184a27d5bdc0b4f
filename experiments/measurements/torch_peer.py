"""The other side of `experiments.benchmark` peers and pipelines: the same work in diffusers."""

import functools
import importlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffjax.errors import UserError
from diffjax.interop import save_unet2d
from diffjax.interop.clip_tokenizer import shipped
from diffjax.models.unet import UNet
from diffjax.typing import Params
from experiments.measurements import measuring

LEARNING_RATE, GRAD_CLIP = 2e-4, 1.0
# What Stable Diffusion 1.5's networks have besides their classes' defaults, and a tiny one's.
SD15: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {
        "sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    "text": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 8, "cross_attention_dim": 16, "attention_head_dim": 2,
        "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "vae": {**SD15["vae"], "block_out_channels": (8,) * 4, "norm_num_groups": 4},
    "text": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}  # fmt: skip


@functools.cache
def libraries() -> tuple[Any, Any]:
    """torch and diffusers, which nothing else here needs. Raises UserError where they are not."""
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type] # diffusers would import it
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise UserError(f"{error}: pip install 'diffjax[parity]'") from error
    return torch, diffusers


class Peer:
    """A network with our weights in it, and the work that is measured."""

    def __init__(
        self, model: UNet, params: Params, *, channels_last: bool = False, compiled: bool = False
    ) -> None:
        self.torch, self.diffusers = torch, diffusers = libraries()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True  # as XLA, it takes the quickest of cuDNN's ways
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        # As ours: bfloat16 on an accelerator, float32 on a CPU.
        self.autocast = torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")
        with tempfile.TemporaryDirectory() as folder:
            save_unet2d(model, params, folder)
            net = diffusers.UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False)
        self.net = net.to(self.device, memory_format=self.format)
        self.call = torch.compile(self.net) if compiled else self.net

    def forward(self, x: np.ndarray) -> Callable[[], Any]:
        given = self.image(x)
        times = self.torch.full((len(x),), 500, device=self.device)

        def call() -> Any:
            with self.torch.no_grad(), self.autocast:
                return self._finished(self.call(given, times).sample)

        return call

    def ddim(self, x: np.ndarray, steps: int, **schedule: Any) -> Callable[..., Any]:
        """Images from the noise x by DDIM without noise, of these classes."""
        given, scheduler = (
            self.image(x),
            self.diffusers.DDIMScheduler(clip_sample=False, **schedule),
        )
        scheduler.set_timesteps(steps)

        def call(labels: Any = None) -> Any:
            drawn = given
            with self.torch.no_grad(), self.autocast:
                for t in scheduler.timesteps:
                    drawn = scheduler.step(self.call(drawn, t, labels).sample, t, drawn).prev_sample
            return self._finished(drawn)

        return call

    def train_step(self, x: np.ndarray) -> Callable[[], Any]:
        """Noise, loss, gradient, clip, Adam and EMA, as `training.step` has them."""
        given = self.image(x)
        schedule = self.diffusers.DDPMScheduler()
        step, _ = self.trainer(schedule, LEARNING_RATE, measuring.EMA_DECAY)
        return lambda: self._finished(step(given))

    def trainer(self, schedule: Any, rate: float, decay: float) -> tuple[Callable[..., Any], Any]:
        """A step on images and their classes, and its optimizer."""
        torch, weights = self.torch, list(self.net.parameters())
        self.averaged = [weight.detach().clone() for weight in weights]
        optimizer = torch.optim.Adam(weights, rate, fused=True)

        def step(x: Any, labels: Any = None) -> Any:
            noise = torch.randn_like(x)
            times = torch.randint(1000, (len(x),), device=self.device)
            noisy = schedule.add_noise(x, noise, times)
            velocity = schedule.config.prediction_type == "v_prediction"
            target = schedule.get_velocity(x, noise, times) if velocity else noise
            optimizer.zero_grad()
            with self.autocast:
                loss = ((self.call(noisy, times, labels).sample - target) ** 2).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, GRAD_CLIP)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.averaged, weights, 1 - decay)
            return loss.detach()

        return step, optimizer

    def image(self, x: np.ndarray) -> Any:
        image = self.torch.from_numpy(np.array(x.transpose(0, 3, 1, 2)))
        return image.to(self.device, memory_format=self.format)

    def _finished(self, result: Any) -> Any:
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        return result


def write_pipeline(folder: pathlib.Path, shape: dict[str, dict[str, Any]]) -> None:
    """A folder of Stable Diffusion with random weights, drawn with DDIM: whole, or not there."""
    torch, diffusers = libraries()
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    files = shipped("transformers")
    text = transformers.CLIPTextConfig(hidden_act="quick_gelu", eos_token_id=2, **shape["text"])
    pipe = diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel(**shape["unet"]),
        vae=diffusers.AutoencoderKL(**shape["vae"]),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=transformers.CLIPTokenizer(
            vocab=files.vocabulary, merges=files.merges, model_max_length=files.length
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        pipe.save_pretrained(pathlib.Path(made) / "new")
        os.replace(pathlib.Path(made) / "new", folder)


def pipeline(
    folder: pathlib.Path, prompts: Sequence[str], latents: np.ndarray, steps: int, guidance: float
) -> Callable[[], np.ndarray]:
    """A function that draws images in [-1, 1] from latents NHWC.

    On a CPU in the quicker of two memory formats; on a GPU in bfloat16, the U-Net compiled.
    """
    torch, diffusers = libraries()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    on_gpu = torch.cuda.is_available()
    pipe = pipe.to("cuda", torch.bfloat16) if on_gpu else pipe
    pipe.set_progress_bar_config(disable=True)
    given = torch.from_numpy(np.array(latents.transpose(0, 3, 1, 2)))
    given = given.to(pipe.device, pipe.unet.dtype)
    side = 8 * given.shape[-1]

    def call() -> np.ndarray:
        images = pipe(
            list(prompts), height=side, width=side, num_inference_steps=steps,
            guidance_scale=guidance, latents=given, output_type="np",
        ).images  # fmt: skip
        return 2 * np.asarray(images) - 1

    def lay_out(form: Any) -> None:
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=form)

    if on_gpu:
        lay_out(torch.channels_last)
        pipe.unet = torch.compile(pipe.unet)
        return call
    seconds = {}
    for form in (torch.contiguous_format, torch.channels_last):
        lay_out(form)
        start = time.perf_counter()
        call()
        seconds[form] = time.perf_counter() - start
    lay_out(min(seconds, key=lambda form: seconds[form]))
    return call


def accelerator_peak() -> int:
    """The most bytes of a GPU that torch's tensors have taken."""
    return int(libraries()[0].cuda.max_memory_allocated())
