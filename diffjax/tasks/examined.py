"""Networks from images to images or maps, measured on held-out records."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Int, Key, UInt8

import diffjax.models
from diffjax.data import Records
from diffjax.data.skipping import read_all
from diffjax.display.images import grid, save_picture
from diffjax.files import write_text
from diffjax.tasks.base import Preview, Task
from diffjax.training.run import RunFolder
from diffjax.typing import Params

UNET = "unet"
BATCH, MOST = 250, 1000  # held-out records at a time, and in all
SHOWN = 10
Figures = dict[str, Any]
Rows = list[UInt8[np.ndarray, "N H W C"]]


@dataclasses.dataclass(frozen=True)
class Exam:
    """The held-out records that weights are measured on, and what takes each result."""

    records: Records
    say: Callable[[str], object] = print
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExaminedTask(Task):
    """A network without a time, called as model(images, train=...)."""

    model: nn.Module
    image_shape: tuple[int, int, int]

    specs: ClassVar[dict[str, Any]] = {"model": diffjax.models}

    def networks(self) -> dict[str, nn.Module]:
        return {UNET: self.model}

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        return {UNET: self.model.init(key, jnp.zeros((1, *self.image_shape)))["params"]}


def shown_by(
    folder: RunFolder, exam: Callable[[Params], tuple[Figures, Rows]], say: Callable[[str], object]
) -> Preview:
    """Says an exam's figures, and writes them to held_out.json and its rows as a picture."""

    def show(step: int, params: Params) -> None:
        figures, rows = exam(params[UNET])
        sheet = grid(np.concatenate(rows), len(rows[0]))
        save_picture(folder.picture(step), sheet, drawn="part")
        text = json.dumps({"step": step, **figures}, indent=2) + "\n"
        write_text(folder.path / "held_out.json", text)
        numbers = {n: v for n, v in figures.items() if not isinstance(v, dict)}
        say(f"step {step}: " + ", ".join(f"{n} {v:.4g}" for n, v in numbers.items()))

    return show


def read_held_out(records: Records) -> dict[str, np.ndarray]:
    """Up to MOST of the held-out records, evenly spaced."""
    count = min(MOST, len(records))
    found = read_all(records, [i * len(records) // count for i in range(count)])
    return {
        key: np.stack([one[key] for one in found]) for key in ("image", "mask") if key in found[0]
    }


def of_tenths(count: int) -> Int[np.ndarray, " n"]:
    """Which of so many images are shown, from the middle of each tenth."""
    number = min(SHOWN, count)
    return (2 * np.arange(number) + 1) * count // (2 * number)
