"""What transposed convolution, resizing and deconvolution undo, and where checkerboards come from.

python -m experiments.upsampling --out=runs/upsampling
python -m experiments.upsampling --init=photo.jpg
"""

import pathlib
from collections.abc import Iterable
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from diffjax.data import Records, epoch
from diffjax.data.embedded import Embedded
from diffjax.display.environment import environment
from diffjax.display.page import Curve, Page, Picture, save_page
from diffjax.editing.pictures import read_pictures
from diffjax.files import write_whole
from diffjax.metrics.checkerboard import checkerboard_energy
from experiments.flags import kinds, presets, specs
from experiments.measurements import measuring
from experiments.start import command
from experiments.studies import checkerboards, deblurring
from experiments.studies.checkerboards import Enlarged

INIT = kinds.define_path(
    "init", None, "images to blur, cropped to a square: a picture, an array's file, or a folder"
)
STEPS = kinds.define_integer("steps", 1000, "that each upscaler is trained for", lower_bound=1)
SEED = kinds.define_seed()
OUT = kinds.define_path("out", "runs/upsampling", "the folder to write")
OWN = (INIT, STEPS, SEED, OUT)
presets.define_preset(smoke={"steps": 50})

TEST = 100  # held-out garments that upscalers and gradients are measured on
MOSAICS, OTHERS = 4, 16  # blurred, and learnt from
T = TypeVar("T")


def main() -> None:
    out = pathlib.Path(OUT.value).expanduser()
    train, test = (Embedded().open(split, None) for split in ("train", "test"))
    images = blurred_images(test)
    out.mkdir(parents=True, exist_ok=True)  # before what takes minutes
    others = deblurring.mosaics(train, OTHERS, SEED.value)
    garments = jnp.asarray(next(epoch(train, len(train)))["image"])
    held_out = jnp.asarray(next(epoch(test, len(test)))["image"][:: len(test) // TEST])
    cases = (deblurring.CASES, checkerboards.LAYERS, checkerboards.DOWN)
    with tqdm(total=sum(map(len, cases)), unit="case", disable=None) as bar:
        blurred = watched(bar, deblurring.deblur(images, others, SEED.value))
        layers = watched(bar, checkerboards.enlarge(garments, held_out, STEPS.value, SEED.value))
        gradients = watched(bar, checkerboards.gradients(held_out, SEED.value))
    figures = {
        "deconvolution": deblurring.plot(blurred),
        "checkerboard": checkerboards.plot_layers(layers),
        "gradients": checkerboards.plot_gradients(gradients),
    }
    values: dict[str, Any] = {
        "steps": STEPS.value,
        "seed": SEED.value,
        "deconvolution": {deblurring.said(one): one.psnr for one in blurred},
        "layers": {one.layer.name: one.figures() for one in layers},
        "gradients": {one.name: one.figures() for one in gradients},
        "real images": {
            f"checkerboard at stride {stride}": float(
                checkerboard_energy(np.asarray(held_out), stride).mean()
            )
            for stride in (2, 4)
        },
    }
    measuring.save(out, "upsampling", values, None)
    pictures = [Picture(name, written(out / f"{name}.png", f)) for name, f in figures.items()]
    save_page(out / "report.html", page_of(out.resolve().name, pictures, layers, values))
    for title in ("deconvolution", "layers", "gradients", "real images"):
        print(table(title, values[title]))
    print(f"figures, upsampling.json and report.html in {out}")


def blurred_images(records: Records) -> deblurring.Square:
    """The user's, or mosaics of garments."""
    if INIT.value is None:
        return deblurring.mosaics(records, MOSAICS, SEED.value)
    form = (deblurring.SIDE, deblurring.SIDE, 1)
    return read_pictures(INIT.value, form)[..., 0].astype(np.float64)


def watched(bar: Any, found: Iterable[T]) -> list[T]:
    """All of them, each a step of the bar."""
    done = []
    for one in found:
        done.append(one)
        bar.update()
    return done


def written(path: pathlib.Path, figure: Figure) -> bytes:
    """The figure's PNG, written and given back."""
    write_whole(path, lambda part: figure.savefig(part, format="png"))
    return path.read_bytes()


def page_of(
    title: str, pictures: list[Picture], layers: list[Enlarged], values: dict[str, Any]
) -> Page:
    names = [flag.name for flag in OWN]
    return Page(
        title=title,
        subtitle="upsampling",
        facts={f"real images, {name}": f"{v:.2%}" for name, v in values["real images"].items()},
        grids=pictures,
        curves=[
            Curve(f"loss of {one.layer.name}", range(1, len(one.losses) + 1), one.losses)
            for one in layers
        ],
        flags=specs.flag_text(names, "python -m experiments.upsampling --flagfile=flags.txt"),
        environment=environment(),
    )


def table(title: str, rows: dict[str, Any]) -> str:
    """A line a row, the figures of each under their names."""
    if not isinstance(next(iter(rows.values())), dict):
        rows = {name: {"": value} for name, value in rows.items()}
    names = list(next(iter(rows.values())))
    lines = [title.ljust(48) + "".join(f"{name:>28}" for name in names)]
    for row, figures in rows.items():
        lines.append(row.ljust(48) + "".join(f"{v:>28.4g}" for v in figures.values()))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
