"""A tiny CLIP with random weights."""

import jax
import jax.numpy as jnp

from diffjax.models.clip_text import CLIPText
from diffjax.models.clip_vision import CLIPVision
from diffjax.tasks.contrastive import Contrastive

SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
LENGTH = 8


def contrastive(dim=4, size=8, channels=1):
    """The task that trains it."""
    return Contrastive(
        vision=CLIPVision(image_size=size, num_channels=channels, patch_size=4, **SHAPE),
        text=CLIPText(vocab_size=49408, max_position_embeddings=LENGTH, **SHAPE),
        image_shape=(size, size, channels),
        dim=dim,
    )


def tiny_towers(seed=0, dim=4):
    """Of images of 8x8 in grey."""
    task = contrastive(dim)
    params = jax.jit(task.init)(jax.random.key(seed), {})
    # Embeddings of a fresh CLIP are nearly alike.
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), params
    )
    return task.towers(params)
