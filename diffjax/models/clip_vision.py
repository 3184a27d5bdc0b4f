"""CLIP's image tower, a ViT with a norm before its layers (Radford et al. 2021, sec. 2.4)."""

from typing import ClassVar

from flax import linen as nn

from diffjax.models.clip_layers import (
    Encoder,
    PatchEmbeddings,
    States,
    Transformer,
    check_images,
    check_patches,
)
from diffjax.typing import Images

__all__ = ["CLIPVision"]


class CLIPVision(Transformer):
    """Images to states, as transformers' CLIPVisionModel computes them.

    `pooled` is the normalised last state of the class token. Raises UserError for an option that
    cannot be built.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3

    positive: ClassVar[tuple[str, ...]] = ("image_size", "patch_size", "num_channels")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_patches(self)

    @nn.compact
    def __call__(self, images: Images) -> States:
        """The states of normalised images of image_size. Raises UserError for other sizes."""
        check_images(self, images)
        layers = self._layers()
        embeddings = PatchEmbeddings(
            self.patch_size, self.hidden_size, True, self.dtype, name="embeddings"
        )
        x = layers.norm("pre_layrnorm")(embeddings(images))  # the name is theirs
        hidden = Encoder(layers, name="encoder")(x)
        pooled = layers.norm("post_layernorm")(hidden[-1][:, 0])
        return States(hidden, hidden[-1], pooled)
