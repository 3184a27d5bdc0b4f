"""A task that doubles images, with a tiny network."""

import dataclasses

import diffjax.models
from diffjax import spec
from diffjax.models.upscaler import Upscaler
from diffjax.schedules.cosine import Cosine
from diffjax.tasks.upscaling import Upscaling

NET = (
    "unet(block_out_channels=(8,),layers_per_block=1,norm_num_groups=4,mid_block_type=None,"
    "down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',))"
)


def doubling(tile: int, channels: int = 1) -> Upscaling:
    """Tiles of that height and width, drawn of squares half as large with noise up to 0.2."""
    fitted = {"in_channels": 2 * channels + 1, "out_channels": channels}
    net = spec.render(spec.build(NET, diffjax.models, fitted))
    model = Upscaler(net, 2, channels, tile)
    return Upscaling(
        model=model, image_shape=(tile, tile, channels), schedule=Cosine(), target="v",
        condition=dataclasses.replace(model.takes(), noise=0.2),
    )  # fmt: skip
