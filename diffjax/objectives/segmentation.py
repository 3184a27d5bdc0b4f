"""Cross entropy of each pixel's class."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffjax.typing import Apply, Keys, Params


def segmentation_loss(
    apply: Apply, classes: int
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """Mean cross entropy in nats a pixel, and the share of pixels classified rightly.

    `apply` gives a logit a class for each pixel. The batch holds `image` and `mask`, whose numbers
    from classes - 1 on count as that last class: of two classes, 0 is the background.
    """

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        logits = apply({"params": params}, batch["image"], train=True)
        truth = jnp.minimum(batch["mask"], classes - 1)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, truth).mean()
        return loss, {"accuracy": jnp.mean(logits.argmax(-1) == truth)}

    return loss_fn
