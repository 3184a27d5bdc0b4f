"""Pictures as CLIP's image tower reads them: resized, cropped, normalised by mean and deviation."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from PIL import Image

from diffjax.data.images import to_rgb
from diffjax.errors import UserError

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that OpenAI trained on, in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
MOST_PIXELS = 2**26  # of a resized picture before it is cropped


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """CLIP's preprocessing, as transformers' CLIPImageProcessor with PIL computes it.

    The shorter edge is resized to `edge`, with antialiasing; the centred `crop` (height, width) is
    cut out; `mean` and `std` are those of the channels in [0, 1]. Raises UserError where the crop
    does not fit.
    """

    edge: int = 224
    crop: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def __post_init__(self) -> None:
        if not 1 <= min(self.crop) <= max(self.crop) <= self.edge:
            raise UserError(f"a crop of {self.crop} does not fit a shorter edge of {self.edge}")
        if not all(np.isfinite(self.mean)) or not all(0 < s < np.inf for s in self.std):
            raise UserError(f"mean={self.mean} and std={self.std} must be finite, and std positive")

    def __call__(self, images: Iterable[Image.Image | np.ndarray]) -> Float[np.ndarray, "N H W 3"]:
        """Normalised float32 of PIL images, or of uint8 arrays of the shape (H, W, C).

        Transparent parts are on white. Raises UserError for other arrays, and for a picture that
        resizing would make too large.
        """
        if isinstance(images, Image.Image):
            raise UserError("images is one picture: give a list")
        rows = [self._cropped(to_rgb(image)) for image in images]
        pixels = np.stack(rows) if rows else np.zeros((0, *self.crop, 3), np.uint8)
        values = (pixels * (1 / 255)).astype(np.float32)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (values - mean) / std

    def _cropped(self, image: Image.Image) -> np.ndarray:
        shorter = min(image.size)
        width, height = (int(self.edge * side / shorter) for side in image.size)
        if width * height > MOST_PIXELS:
            raise UserError(
                f"a picture of {image.width}x{image.height} would be resized to {width}x{height}: "
                "crop it first"
            )
        resized = np.asarray(image.resize((width, height), self.resample))
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        return resized[top : top + self.crop[0], left : left + self.crop[1]]
