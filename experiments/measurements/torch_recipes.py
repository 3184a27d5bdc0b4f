"""A recipe of another project, trained by torch for `experiments.benchmark recipes`.

python -m experiments.measurements.torch_recipes --recipe=diffusers --seconds=300 --out=FILE.npz

Network and images are those of the main job, but without classes, which no recipe has.
"""

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import diffjax.models
from diffjax import spec
from diffjax.data.embedded import Embedded
from diffjax.data.images import to_uint8
from diffjax.files import write_whole
from experiments.flags import kinds
from experiments.measurements.main_job import flagfile
from experiments.measurements.other_recipes import RECIPES, Recipe, noise_of
from experiments.measurements.torch_peer import Peer, libraries
from experiments.start import command

RECIPE = flags.DEFINE_enum("recipe", "diffusers", list(RECIPES), "whose recipe")
SECONDS = kinds.define_number("seconds", 300.0, "how long it may take, without drawing", 0)
NUM = kinds.define_integer("num", 1000, "images to draw", lower_bound=1)
STEPS = kinds.define_integer("steps", 50, "sampling steps", lower_bound=1)
SEED = kinds.define_seed()
OUT = kinds.define_path("out", None, "the .npz file to write", required=True)
TOGETHER = 100  # images that are drawn at once


def main() -> None:
    start = time.perf_counter()
    torch, diffusers = libraries()
    torch.manual_seed(SEED.value)
    recipe, records = RECIPES[RECIPE.value], Embedded().open("train", None)
    given = np.stack([records[i]["image"] for i in range(len(records))])
    peer = build(given[:1])
    schedule = diffusers.DDPMScheduler(**noise_of(recipe))
    averaged, steps = train(recipe, peer, peer.image(given), schedule, start + SECONDS.value)
    with torch.no_grad():
        for weight, mean in zip(peer.net.parameters(), averaged, strict=True):
            weight.copy_(mean)
    drawn: dict[str, Any] = {f"eta_{eta:g}": draw(peer, recipe, eta) for eta in (0.0, 1.0)}

    def save(path: pathlib.Path) -> None:
        with path.open("wb") as file:
            np.savez(file, steps=steps, **drawn)

    write_whole(OUT.value, save)
    print(f"done: {steps} steps")


def build(images: np.ndarray) -> Peer:
    """The main job's network, without its classes."""
    fits = {"sample_size": images.shape[1], "in_channels": 1, "out_channels": 1}
    model = spec.build(flagfile()["model"], diffjax.models, fits)
    start = jax.jit(model.init)(jax.random.key(SEED.value), images, jnp.zeros(1))
    return Peer(model, start["params"])


def train(
    recipe: Recipe, peer: Peer, images: Any, schedule: Any, until: float
) -> tuple[list[Any], int]:
    """The averaged weights, and in how many steps: as many as there is time for."""
    torch, weights = peer.torch, list(peer.net.parameters())
    averaged = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, **recipe.adam, fused=True)
    alpha_bar = schedule.alphas_cumprod
    importance = torch.as_tensor(recipe.weight(alpha_bar / (1 - alpha_bar)) + 0 * alpha_bar)
    begun, step = time.perf_counter(), 0
    for rows in batches(len(images), recipe.batch, torch):
        share = (time.perf_counter() - begun) / max(until - begun, 1e-9)
        if share >= 1:
            break
        x = images[rows]
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(-1))
        noise, times = torch.randn_like(x), torch.randint(1000, (len(x),))
        velocity = schedule.config.prediction_type == "v_prediction"
        target = schedule.get_velocity(x, noise, times) if velocity else noise
        found = peer.net(schedule.add_noise(x, noise, times), times).sample
        error = ((found - target) ** 2).mean((1, 2, 3))
        optimizer.zero_grad()
        (error * importance[times]).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.adam["lr"] * recipe.rate(step, share)
        optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(averaged, weights, 1 - recipe.decay(step))
    return averaged, step


def batches(count: int, size: int, torch: Any) -> Iterator[Any]:
    """Rows in another order each time that all have been seen."""
    while True:
        order = torch.randperm(count)
        yield from order[: count - count % size].split(size)


def draw(peer: Peer, recipe: Recipe, eta: float) -> np.ndarray:
    """Images as bytes by DDIM, whose pictures of x0 are clipped, as both projects do."""
    torch = peer.torch
    scheduler = peer.diffusers.DDIMScheduler(**noise_of(recipe))
    scheduler.set_timesteps(STEPS.value)
    rng = torch.Generator().manual_seed(SEED.value)
    size = peer.net.config.sample_size
    drawn = []
    with torch.no_grad():
        for first in range(0, NUM.value, TOGETHER):
            x = torch.randn((min(TOGETHER, NUM.value - first), 1, size, size), generator=rng)
            for t in scheduler.timesteps:
                eps = peer.net(x, t).sample
                x = scheduler.step(eps, t, x, eta=eta, generator=rng).prev_sample
            drawn.append(to_uint8(x.permute(0, 2, 3, 1).numpy()))
    return np.concatenate(drawn)


if __name__ == "__main__":
    command.run(main)
