"""The 5,000 images of Fashion-MNIST that come with the package: nothing to download."""

import dataclasses
import importlib.resources

import numpy as np
from PIL import Image

from diffjax.data import images
from diffjax.data.base import ArrayRecords, Records, Split, split_up
from diffjax.data.contents import count_classes

__all__ = ["Embedded"]

ROWS, COLUMNS, SIDE = 100, 50, 28
CLASS_NAMES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The first 500 images of each class of Fashion-MNIST's training set (Xiao et al. 2017).

    28x28 grey in 10 classes; 4,500 for training and 500 for testing, balanced by class.
    """

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`."""
        folder = importlib.resources.files("diffjax.third_party") / "fashion_mnist"
        with (folder / "fashion_mnist_5000.png").open("rb") as file:
            mosaic = np.asarray(Image.open(file)).reshape(ROWS, SIDE, COLUMNS, SIDE)
        pixels = mosaic.transpose(0, 2, 1, 3).reshape(-1, SIDE, SIDE, 1)
        labels = np.frombuffer((folder / "fashion_mnist_5000.labels").read_bytes(), np.uint8)
        by_class = np.argsort(labels, kind="stable")
        parts = {name: by_class[own] for name, own in split_up(labels[by_class]).items()}
        chosen, count = parts[split], len(CLASS_NAMES)
        contents = count_classes(labels[parts["train"]], labels[parts["test"]], count)
        shape = images.shape(pixels.shape[1:], image_size)
        return ArrayRecords(pixels[chosen], labels[chosen], shape, count, CLASS_NAMES, contents)
