"""What the towers of CLIP and SigLIP are made of: embeddings, attention, MLP, encoder.

Submodules carry the names that transformers gives them, so that weights move by a rule and no
table. `dtype` is what is computed in; parameters, statistics and softmax stay in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from diffjax.errors import UserError
from diffjax.models import layers
from diffjax.models.layers import Activation, attend
from diffjax.typing import Images

Tokens = Float[Array, "B T E"]
Pooled = Float[Array, "B E"]
Ids = Int[Array, "B T"]

ACTIVATIONS: dict[str, Activation] = {
    **layers.ACTIVATIONS,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016, sec. 2
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
}
DTYPES = ("float32", "bfloat16", "float16")


class States(NamedTuple):
    """What a tower computes at every depth, under transformers' names.

    `hidden_states` are the input of each layer and the output of the last layer, before the final
    norm. `last_hidden_state` is normalised, except in CLIP's image towers. `pooled` is not yet
    projected, except in the ResNet.
    """

    hidden_states: tuple[Array, ...]
    last_hidden_state: Array
    pooled: Pooled


class Layers(NamedTuple):
    """How the layers of an encoder are built."""

    depth: int
    heads: int
    hidden: int
    act: str
    eps: float | int
    causal: bool
    dtype: str

    def norm(self, name: str) -> nn.LayerNorm:
        """Layer normalisation in two passes: E[x²]-E[x]² cancels when the mean is large."""
        return nn.LayerNorm(self.eps, self.dtype, use_fast_variance=False, name=name)

    def into_stream(self, width: int) -> Callable[..., Any]:
        """How a layer starts whose output is added to the stream (Radford et al. 2021, code)."""
        return nn.initializers.normal(width**-0.5 * (2 * self.depth) ** -0.5)


class Transformer(nn.Module):
    """The options that every transformer among the towers has, under transformers' names.

    `dtype` is what is computed in. Raises UserError for an option that cannot be built.
    """

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float | int = 1e-5
    dtype: str = "float32"

    positive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_options(self)
        super().__post_init__()

    def _layers(self, *, causal: bool = False) -> Layers:
        return Layers(
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.hidden_act,
            self.layer_norm_eps,
            causal,
            self.dtype,
        )


class TextTransformer(Transformer):
    """A transformer of token ids in 0..vocab_size-1, at most max_position_embeddings per text."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77

    def _states(self, ids: Ids, *, causal: bool = False) -> tuple[tuple[Tokens, ...], Tokens]:
        """The hidden states of every depth, and the last after its norm. For a compact method."""
        check_ids(self, ids)
        layers = self._layers(causal=causal)
        embeddings = TextEmbeddings(
            self.vocab_size,
            self.max_position_embeddings,
            self.hidden_size,
            self.dtype,
            name="embeddings",
        )
        hidden = Encoder(layers, name="encoder")(embeddings(ids))
        return hidden, layers.norm("final_layer_norm")(hidden[-1])


class Attention(nn.Module):
    """Multi-head attention of `x` to `to`, by default to itself (Vaswani et al. 2017, sec. 3.2)."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Tokens, to: Float[Array, "B S E"] | None = None) -> Tokens:
        width = x.shape[-1]
        to = x if to is None else to
        start = nn.initializers.normal(width**-0.5)
        dense = partial(nn.Dense, width, dtype=self.layers.dtype)
        q, k, v = (
            self._split(dense(kernel_init=start, name=f"{name}_proj")(h))
            for name, h in (("q", x), ("k", to), ("v", to))
        )
        h = attend(q, k, v, causal=self.layers.causal).swapaxes(1, 2).reshape(x.shape)
        return dense(kernel_init=self.layers.into_stream(width), name="out_proj")(h)

    def _split(self, h: Tokens) -> Float[Array, "B N T D"]:
        return h.reshape(*h.shape[:2], self.layers.heads, -1).swapaxes(1, 2)


class MLP(nn.Module):
    """Two dense layers with an activation between."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        width, dtype = x.shape[-1], self.layers.dtype
        start = nn.initializers.normal((2 * width) ** -0.5)
        end = self.layers.into_stream(width)
        h = nn.Dense(self.layers.hidden, dtype=dtype, kernel_init=start, name="fc1")(x)
        h = ACTIVATIONS[self.layers.act](h)
        return nn.Dense(width, dtype=dtype, kernel_init=end, name="fc2")(h)


class EncoderLayer(nn.Module):
    """Attention and MLP, each normalised first and then added (Radford et al. 2019, sec. 2.3)."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        x = x + Attention(self.layers, name="self_attn")(self.layers.norm("layer_norm1")(x))
        return x + MLP(self.layers, name="mlp")(self.layers.norm("layer_norm2")(x))


class Encoder(nn.Module):
    """Layers in a row: the input of each, and the output of the last."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Tokens) -> tuple[Tokens, ...]:
        states = [x]
        for i in range(self.layers.depth):
            states.append(EncoderLayer(self.layers, name=f"layers_{i}")(states[-1]))
        return tuple(states)


class TextEmbeddings(nn.Module):
    """A row per token plus a row per position. A token that is not in the table gives NaN."""

    vocab_size: int
    positions: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, ids: Ids) -> Tokens:
        tokens = _table(self.vocab_size, self.width, 0.02, "token_embedding")
        positions = _table(self.positions, self.width, 0.01, "position_embedding")
        # Below 0 a row would be counted from the end.
        rows = jnp.where(ids < 0, self.vocab_size, ids)
        found = jnp.take(tokens, rows, axis=0, mode="fill", fill_value=jnp.nan)
        return (found + positions[: ids.shape[1]]).astype(self.dtype)


class PatchEmbeddings(nn.Module):
    """A row per patch plus a row per position (Dosovitskiy et al. 2021, eq. 1).

    `class_token` puts one row before the patches, and leaves out the bias of the patches.
    """

    patch_size: int
    width: int
    class_token: bool
    dtype: str

    @nn.compact
    def __call__(self, images: Images) -> Tokens:
        patches = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            strides=self.patch_size,
            padding="VALID",
            use_bias=not self.class_token,
            dtype=self.dtype,
            name="patch_embedding",
        )(images).reshape(len(images), -1, self.width)
        scale = self.width**-0.5
        if self.class_token:
            start = nn.initializers.normal(scale)
            token = self.param("class_embedding", start, (self.width,), jnp.float32)
            first = jnp.broadcast_to(token.astype(self.dtype), (len(images), 1, self.width))
            patches = jnp.concatenate([first, patches], axis=1)
        positions = _table(patches.shape[1], self.width, scale, "position_embedding")
        return patches + positions.astype(self.dtype)


def _table(rows: int, width: int, scale: float, name: str) -> Float[Array, "{rows} {width}"]:
    embed = nn.Embed(rows, width, embedding_init=nn.initializers.normal(scale), name=name)
    return embed.embedding


def check_options(tower: Transformer) -> None:
    """Raises UserError for a number out of range, an unknown name, and heads that do not divide."""
    spec = type(tower).__module__.rpartition(".")[2]
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    check_positive(tower, *sizes, "layer_norm_eps", *tower.positive)
    for name, legal in (("hidden_act", tuple(ACTIVATIONS)), ("dtype", DTYPES)):
        check_choice(tower, name, legal)
    heads, width = tower.num_attention_heads, tower.hidden_size
    if width % heads:
        raise UserError(
            f"{spec}(num_attention_heads={heads}): it does not divide hidden_size={width}"
        )


def check_positive(tower: nn.Module, *names: str) -> None:
    """Raises UserError for an option that is 0 or below."""
    spec = type(tower).__module__.rpartition(".")[2]
    for name in names:
        value = getattr(tower, name)
        values = value if isinstance(value, tuple) else (value,)
        if any(not v > 0 for v in values):
            raise UserError(f"{spec}({name}={value}): {name} must be above 0")


def check_choice(tower: nn.Module, name: str, legal: tuple[str, ...]) -> None:
    """Raises UserError for a name that is not among the legal ones."""
    spec, value = type(tower).__module__.rpartition(".")[2], getattr(tower, name)
    if value not in legal:
        choices = ", ".join(map(repr, legal))
        raise UserError(f"{spec} has no {name} {value!r}: choose one of {choices}")


def check_patches(tower: Any) -> None:
    """Raises UserError for patches larger than the images."""
    if tower.patch_size > tower.image_size:
        spec = type(tower).__module__.rpartition(".")[2]
        raise UserError(
            f"{spec}(patch_size={tower.patch_size}): images have image_size={tower.image_size}"
        )


def check_images(tower: Any, images: Images) -> None:
    """Raises UserError for images of other than the tower's size and channels."""
    wanted = (tower.image_size, tower.image_size, tower.num_channels)
    if images.shape[1:] != wanted:
        shape, needed = (" x ".join(map(str, s)) for s in (images.shape[1:], wanted))
        raise UserError(f"images are {shape}, and the image tower takes {needed}: resize them")


def check_ids(tower: Any, ids: Ids) -> None:
    """Raises UserError for no tokens, and for more tokens than there are positions."""
    length, most = ids.shape[1], tower.max_position_embeddings
    if not 1 <= length <= most:
        raise UserError(
            f"texts have {length} tokens, and the text tower takes 1 to {most}: pad or cut them"
        )
