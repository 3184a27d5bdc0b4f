"""The other side of `experiments.benchmark peers`: the same network and work in diffusers."""

import functools
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from diffjax.errors import UserError
from diffjax.interop import save_unet2d
from diffjax.models.unet import UNet
from diffjax.typing import Params
from experiments.measurements import measuring

LEARNING_RATE, GRAD_CLIP = 2e-4, 1.0


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
