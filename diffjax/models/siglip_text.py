"""SigLIP's text tower: a transformer whose tokens all see each other (Zhai et al. 2023)."""

from typing import ClassVar

from flax import linen as nn

from diffjax.models.clip_layers import Ids, States, TextTransformer

__all__ = ["SigLIPText"]


class SigLIPText(TextTransformer):
    """Token ids to states, as transformers' SiglipTextModel computes them.

    `pooled` is a dense layer of the last token's state, of `projection_size` or by default
    hidden_size numbers. Padding is a token like others. Raises UserError for an option that cannot
    be built.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float | int = 1e-6
    vocab_size: int = 32000
    max_position_embeddings: int = 64
    projection_size: int | None = None

    positive: ClassVar[tuple[str, ...]] = ("vocab_size", "max_position_embeddings", "embed_dim")

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        return self.hidden_size if self.projection_size is None else self.projection_size

    @nn.compact
    def __call__(self, ids: Ids) -> States:
        """The states of ids in 0..vocab_size-1, padded as in training: to 64.

        An id that is out of range gives NaN. Raises UserError for too many ids.
        """
        hidden, last = self._states(ids)
        head = nn.Dense(self.embed_dim, dtype=self.dtype, name="head")
        return States(hidden, last, head(last[:, -1]))
