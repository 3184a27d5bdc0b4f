"""CLIP and SigLIP: an image tower and a text tower with one space of embeddings."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from diffjax.errors import UserError
from diffjax.models.clip_layers import Ids, Pooled, States
from diffjax.models.clip_resnet import CLIPResNet
from diffjax.models.clip_text import CLIPText
from diffjax.models.clip_vision import CLIPVision
from diffjax.models.siglip_text import SigLIPText
from diffjax.models.siglip_vision import SigLIPVision
from diffjax.typing import Images

# Two names, so that no spec names a model of two modules: each tower has a spec of its own.
__all__ = ["CLIP", "States"]

ImageTower = CLIPVision | CLIPResNet | SigLIPVision
TextTower = CLIPText | SigLIPText


class CLIP(nn.Module):
    """Images and texts to logits of which belong together (Radford et al. 2021, fig. 3).

    `projection_dim` is the size of embeddings: a tower that does not embed by itself is projected
    to it, and None leaves its pooled states as they are. `bias` adds SigLIP's bias to the logits
    (Zhai et al. 2023, alg. 1). A model of one tower has no logits. Raises UserError for no tower,
    and for embeddings of two sizes.
    """

    vision_model: ImageTower | None
    text_model: TextTower | None
    projection_dim: int | None = 512
    bias: bool = False

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    def setup(self) -> None:
        if self.projection_dim is not None:
            for tower, name in (
                (self.vision_model, "visual_projection"),
                (self.text_model, "text_projection"),
            ):
                if isinstance(tower, CLIPVision | CLIPText):
                    setattr(self, name, _projection(tower, self.projection_dim))
        if self.vision_model is not None and self.text_model is not None:
            # SigLIP's start is 10 (Zhai et al. 2023, sec. 3.1), CLIP's 1/0.07 (sec. 2.5).
            start = nn.initializers.constant(math.log(10 if self.bias else 1 / 0.07))
            self.logit_scale = self.param("logit_scale", start, (), jnp.float32)
            if self.bias:
                start = nn.initializers.constant(-10.0)
                self.logit_bias = self.param("logit_bias", start, (), jnp.float32)

    def __call__(
        self, images: Float[Array, "N H W C"], ids: Int[Array, "M T"]
    ) -> Float[Array, "N M"]:
        """Logits of each image (row) with each text (column), whose numbers may differ.

        They are exp(logit_scale) times the cosine of the embeddings, plus the bias.
        """
        of_images, of_texts = self.encode_image(images), self.encode_text(ids)
        cosines = _normalised(of_images) @ _normalised(of_texts).T
        logits = jnp.exp(self.logit_scale) * cosines
        return logits + self.logit_bias if self.bias else logits

    def encode_image(self, images: Images) -> Pooled:
        """The float32 embeddings of NHWC images, not normalised.

        The images are normalised as the model's image processor does. Raises UserError for images
        of another size, and without an image tower.
        """
        pooled = self.image_states(images).pooled
        if hasattr(self, "visual_projection"):
            pooled = self.visual_projection(pooled)
        return pooled.astype(jnp.float32)

    def encode_text(self, ids: Ids) -> Pooled:
        """The float32 embeddings of token ids, not normalised.

        An id out of range gives NaN. Raises UserError for too many ids, and without a text tower.
        """
        pooled = self.text_states(ids).pooled
        if hasattr(self, "text_projection"):
            pooled = self.text_projection(pooled)
        return pooled.astype(jnp.float32)

    def image_states(self, images: Images) -> States:
        """What the image tower computes at every depth; errors as in encode_image."""
        if self.vision_model is None:
            raise UserError("this model has no image tower: load one that has")
        return self.vision_model(images)

    def text_states(self, ids: Ids) -> States:
        """What the text tower computes at every depth; errors as in encode_text.

        Stable Diffusion 1 takes last_hidden_state, SDXL takes hidden_states[-2].
        """
        if self.text_model is None:
            raise UserError("this model has no text tower: load one that has")
        return self.text_model(ids)


def _projection(tower: CLIPVision | CLIPText, size: int) -> nn.Dense:
    start = nn.initializers.normal(tower.hidden_size**-0.5)
    return nn.Dense(size, use_bias=False, dtype=tower.dtype, kernel_init=start)


def _normalised(x: Pooled) -> Pooled:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _check(model: CLIP) -> None:
    towers = [t for t in (model.vision_model, model.text_model) if t is not None]
    if not towers:
        raise UserError("clip has neither vision_model nor text_model: give one or both")
    if model.projection_dim is not None and model.projection_dim < 1:
        raise UserError(
            f"clip(projection_dim={model.projection_dim}): projection_dim must be above 0"
        )
    if len(towers) == 1 and model.bias:
        raise UserError("clip(bias=True): a model of one tower has no logits")
    sizes = [embedding_size(model, tower) for tower in towers]
    if len(set(sizes)) > 1:
        raise UserError(
            f"clip: images are embedded in {sizes[0]} numbers and texts in {sizes[1]}: choose "
            "towers and projection_dim of one size"
        )


def embedding_size(model: CLIP, tower: ImageTower | TextTower) -> int:
    """How many numbers an embedding of this tower has in the model."""
    if isinstance(tower, CLIPVision | CLIPText):
        return tower.hidden_size if model.projection_dim is None else model.projection_dim
    return tower.embed_dim
