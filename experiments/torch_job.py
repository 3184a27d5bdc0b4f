"""The main job in torch and diffusers, for `experiments.benchmark peers`.

python -m experiments.torch_job --out=DIR

The network, images, batches, optimizer, pictures and checkpoints are those of
experiments/flagfiles/ddpm_fashion_mnist.flags.
"""

import importlib.resources
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import diffjax.models
from diffjax import spec
from diffjax.data.embedded import Embedded
from diffjax.models.unet import UNet
from diffjax.report.images import save_grid, to_uint8
from experiments import cli
from experiments.torch_peer import Peer, libraries

OUT = flags.DEFINE_string("out", None, "the folder to write", required=True)
STEPS = flags.DEFINE_integer("steps", 3000, "train up to this step", lower_bound=1)
BATCH, PEAK_RATE, WARMUP, DECAY, EVERY = 16, 1e-3, 100, 0.998, 500  # the flagfile's


def main_job_network() -> UNet:
    """The network that the main job's flagfile names, for the embedded images."""
    folder = importlib.resources.files("experiments") / "flagfiles"
    lines = (folder / "ddpm_fashion_mnist.flags").read_text().splitlines()
    (text,) = (line.removeprefix("--model=") for line in lines if line.startswith("--model="))
    fits = {"sample_size": 28, "in_channels": 1, "out_channels": 1}
    return spec.build(text, diffjax.models, fits)


def share_of_peak(step: int) -> float:
    """Up in a line, and down along a cosine to 0."""
    warmup = min(WARMUP, STEPS.value - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (step - warmup) / (STEPS.value - warmup))) / 2


def main() -> None:
    torch, diffusers = libraries()
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    model, records = main_job_network(), Embedded().open("train", None)
    images = np.stack([records[i]["image"] for i in range(len(records))]).astype(np.float32)
    labels = torch.tensor([int(records[i]["label"]) for i in range(len(records))])
    start = jax.jit(model.init)(
        jax.random.key(0), images[:1], jnp.zeros(1), jnp.zeros(1, jnp.int32)
    )
    peer = Peer(model, start["params"])
    law = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    step, optimizer = peer.trainer(diffusers.DDPMScheduler(**law), PEAK_RATE, DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)
    draw = peer.ddim(np.random.randn(100, *records.image_shape).astype(np.float32), 25, **law)
    order = torch.randperm(len(images))
    for i in range(1, STEPS.value + 1):
        if len(order) < BATCH:
            order = torch.randperm(len(images))
        rows, order = order[:BATCH], order[BATCH:]
        step(peer.image(images[rows.numpy()] / 127.5 - 1), labels[rows])
        rate.step()
        if i % EVERY == 0 or i == STEPS.value:
            drawn = draw(torch.arange(100) % 10).permute(0, 2, 3, 1).numpy()
            save_grid(out / f"{i}.png", to_uint8(drawn))
            state = peer.net.state_dict(), optimizer.state_dict(), peer.averaged
            torch.save(state, out / f"{i}.pt")
    print(f"done: step {STEPS.value}")


if __name__ == "__main__":
    cli.run(main)
