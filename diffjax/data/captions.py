"""The captioned images that come with the package: nothing to download."""

import dataclasses
import importlib.resources
import json

import numpy as np
from PIL import Image

from diffjax.data import images
from diffjax.data.base import ArrayRecords, Records, Split
from diffjax.data.contents import count_classes
from diffjax.errors import UserError

__all__ = ["Captions"]

COLUMNS, SIDE = 50, 32
STYLES = ("fluent", "noto")


@dataclasses.dataclass(frozen=True)
class Captions:
    """3,470 emoji on white, 32x32 in colour, each with its English name as `text`.

    `style` is 'noto' (1,906 pictures), 'fluent' (1,564) or None for both; a name is then often that
    of two pictures. The label is one of 9 categories. The test split (408 pictures) holds out whole
    families, a name with its gender and hair variants, so that no test name is trained on.
    """

    style: str | None = None

    def __post_init__(self) -> None:
        if self.style not in (None, *STYLES):
            legal = ", ".join(STYLES)
            raise UserError(f"captions(style={self.style!r}): choose one of {legal}, or None")

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`."""
        folder = importlib.resources.files("diffjax.third_party") / "emoji32"
        lines = (folder / "emoji32.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        with (folder / "emoji32.png").open("rb") as file:
            mosaic = np.asarray(Image.open(file)).reshape(-1, SIDE, COLUMNS, SIDE, 3)
        pixels = mosaic.transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)
        class_names = tuple(sorted({row["category"] for row in rows}))
        labels = np.asarray([class_names.index(row["category"]) for row in rows])
        styles = (self.style,) if self.style else STYLES
        trained, held_out = (
            [i for i, row in enumerate(rows) if row["split"] == name and row["style"] in styles]
            for name in ("train", "test")
        )
        chosen = trained if split == "train" else held_out
        return ArrayRecords(
            pixels[chosen],
            labels[chosen],
            images.shape(pixels.shape[1:], image_size),
            len(class_names),
            class_names,
            count_classes(labels[trained], labels[held_out], len(class_names)),
            [rows[index]["name"] for index in chosen],
        )
