"""The main job in torch and diffusers, for `experiments.benchmark peers`.

python -m experiments.measurements.torch_job --out=DIR

The network, images, batches, pictures and checkpoints are those of
experiments/flagfiles/ddpm_fashion_mnist.flags; the optimizer is Adam.
"""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import diffjax.models
from diffjax import spec
from diffjax.data.embedded import Embedded
from diffjax.data.images import to_uint8
from diffjax.display.images import save_grid
from experiments.flags import kinds
from experiments.measurements.main_job import flagfile
from experiments.measurements.torch_peer import Peer, libraries
from experiments.start import command

OUT = kinds.define_path("out", None, "the folder to write", required=True)
STEPS = kinds.define_integer("steps", 3000, "train up to this step", lower_bound=1)


def share_of_peak(step: int) -> float:
    """Up in a line, and down along a cosine to 0."""
    warmup = min(int(flagfile()["warmup_steps"]), STEPS.value - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (step - warmup) / (STEPS.value - warmup))) / 2


def main() -> None:
    torch, diffusers = libraries()
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    given, records = flagfile(), Embedded().open("train", None)
    fits = {"sample_size": 28, "in_channels": 1, "out_channels": 1, "num_class_embeds": 10}
    model = spec.build(given["model"], diffjax.models, fits)
    batch, every = int(given["batch_size"]), int(given["sample_every"])
    num, sample_steps = int(given["num_samples"]), int(given["sample_steps"])
    images = np.stack([records[i]["image"] for i in range(len(records))])
    labels = np.array([int(records[i]["label"]) for i in range(len(records))])
    start = jax.jit(model.init)(
        jax.random.key(0), images[:1], jnp.zeros(1), jnp.zeros(1, jnp.int32)
    )
    peer = Peer(model, start["params"])
    law = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    rate = float(given["learning_rate"])
    step, optimizer = peer.trainer(diffusers.DDPMScheduler(**law), rate, float(given["ema_decay"]))
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(num, *records.image_shape)).astype(np.float32)
    draw = peer.ddim(noise, sample_steps, **law)
    each = torch.arange(num, device=peer.device) % 10
    order = rng.permutation(len(images))
    for i in range(1, STEPS.value + 1):
        if len(order) < batch:
            order = rng.permutation(len(images))
        rows, order = order[:batch], order[batch:]
        step(peer.image(images[rows]), torch.from_numpy(labels[rows]).to(peer.device))
        falling.step()
        if i % every == 0 or i == STEPS.value:
            drawn = draw(each).float().permute(0, 2, 3, 1).cpu().numpy()
            save_grid(out / f"{i}.png", to_uint8(drawn))
            state = peer.net.state_dict(), optimizer.state_dict(), peer.averaged
            torch.save(state, out / f"{i}.pt")
    print(f"done: step {STEPS.value}")


if __name__ == "__main__":
    command.run(main)
