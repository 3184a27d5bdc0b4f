"""SigLIP's image tower, a ViT pooled by attention (Zhai et al. 2023; Zhai et al. 2022)."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from diffjax.models.clip_layers import (
    MLP,
    Attention,
    Encoder,
    Layers,
    PatchEmbeddings,
    Pooled,
    States,
    Tokens,
    Transformer,
    check_images,
    check_patches,
)
from diffjax.typing import Images

__all__ = ["SigLIPVision"]


class AttentionPool(nn.Module):
    """One learned query's attention to all patches, and an MLP added to it (Lee et al. 2019)."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Tokens) -> Pooled:
        width = x.shape[-1]
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width), jnp.float32)
        query = jnp.broadcast_to(probe.astype(x.dtype), (len(x), 1, width))
        h = Attention(self.layers, name="attention")(query, x)
        h = h + MLP(self.layers, name="mlp")(self.layers.norm("layernorm")(h))
        return h[:, 0]


class SigLIPVision(Transformer):
    """Images to states, as transformers' SiglipVisionModel computes them.

    Raises UserError for an option that cannot be built.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float | int = 1e-6
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3

    positive: ClassVar[tuple[str, ...]] = ("image_size", "patch_size", "num_channels")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_patches(self)

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        return self.hidden_size

    @nn.compact
    def __call__(self, images: Images) -> States:
        """The states of images of image_size in [-1, 1]. Raises UserError for other sizes."""
        check_images(self, images)
        layers = self._layers()
        embeddings = PatchEmbeddings(
            self.patch_size, self.hidden_size, False, self.dtype, name="embeddings"
        )
        hidden = Encoder(layers, name="encoder")(embeddings(images))
        last = layers.norm("post_layernorm")(hidden[-1])
        return States(hidden, last, AttentionPool(layers, name="head")(last))
