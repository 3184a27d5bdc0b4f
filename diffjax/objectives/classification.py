"""Cross entropy on images that are turned and moved a little each time."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from diffjax.objectives import dropout
from diffjax.typing import Apply, Images, Keys, Params


def augment(keys: Keys, images: Images, *, flip: bool, shift: int) -> Images:
    """Each image by its own key: turned left to right or not, and moved by up to `shift` pixels.

    What comes in at the edge repeats the edge.
    """

    def one(key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        turn, move = jax.random.split(key)
        if flip:
            image = jnp.where(jax.random.bernoulli(turn), image[:, ::-1], image)
        padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        row, column = jax.random.randint(move, (2,), 0, 2 * shift + 1)
        return lax.dynamic_slice(padded, (row, column, 0), image.shape)

    return jax.vmap(one)(keys, images)


def classification_loss(
    apply: Apply, *, flip: bool = True, shift: int = 1
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """Mean cross entropy in nats, and the share classified rightly, of augmented images.

    `apply` gives logits and features. The batch holds `image` in [-1, 1] and `label`.
    """

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        augment_keys, drop_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        images = augment(augment_keys, batch["image"], flip=flip, shift=shift)
        with dropout.by_sample(drop_keys):
            logits, _ = apply({"params": params}, images, train=True)
        labels = batch["label"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, {"accuracy": jnp.mean(logits.argmax(-1) == labels)}

    return loss_fn
