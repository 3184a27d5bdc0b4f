"""AlexNet and VGG16 without their classifiers: networks whose layers compare pairs of images.

They are no backbones to train, so this module exports no class for a spec to name.
"""

from functools import partial
from typing import NamedTuple

from flax import linen as nn
from jaxtyping import Array, Float

from diffjax.models.layers import Conv
from diffjax.typing import Images


class Layer(NamedTuple):
    """A convolution and its ReLU; a max pool goes before where `pooled`.

    `compared`: the network returns the output.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pooled: bool = False
    compared: bool = True


class Stages(nn.Module):
    """Images to the outputs of their compared layers, from the largest to the smallest.

    `pool` is the window of the max pools, all of stride 2. `least` is the smallest height and width
    that leave each pool a whole window. Convolutions are called conv1, conv2 and so on.
    """

    layers: tuple[Layer, ...]
    pool: int
    least: int

    @nn.compact
    def __call__(self, images: Images) -> list[Float[Array, "B _ _ _"]]:
        pool = partial(nn.max_pool, window_shape=(self.pool, self.pool), strides=(2, 2))
        x, compared = images, []
        for i, layer in enumerate(self.layers, 1):
            x = pool(x) if layer.pooled else x
            kernel = (layer.kernel, layer.kernel)
            conv = Conv(layer.channels, kernel, layer.stride, layer.padding, name=f"conv{i}")
            x = nn.relu(conv(x))
            if layer.compared:
                compared.append(x)
        return compared

    def torchvision_names(self) -> dict[str, str]:
        """What torchvision calls each convolution, by its name here.

        torchvision numbers convolutions, ReLUs and pools together.
        """
        names, place = {}, 0
        for i, layer in enumerate(self.layers, 1):
            place += layer.pooled
            names[f"conv{i}"] = f"features.{place}"
            place += 2
        return names


# Krizhevsky 2014 ("one weird trick"), as torchvision has it.
ALEXNET = Stages(
    (
        Layer(64, kernel=11, stride=4, padding=2),
        Layer(192, kernel=5, padding=2, pooled=True),
        Layer(384, pooled=True),
        Layer(256),
        Layer(256),
    ),
    pool=3,
    least=31,
)


def _block(channels: int, layers: int, *, pooled: bool = True) -> tuple[Layer, ...]:
    """Equal layers, of which the first is pooled and the last compared."""
    first = Layer(channels, pooled=pooled, compared=False)
    inner = Layer(channels, compared=False)
    return (first, *[inner] * (layers - 2), Layer(channels))


# Simonyan & Zisserman 2015, table 1, column D.
VGG16 = Stages(
    (
        *_block(64, 2, pooled=False),
        *_block(128, 2),
        *_block(256, 3),
        *_block(512, 3),
        *_block(512, 3),
    ),
    pool=2,
    least=16,
)
