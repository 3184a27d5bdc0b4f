"""diffjax: diffusion models in JAX and Flax.

import diffjax as dj

run = dj.load("runs/NAME")
images = run.sample(jax.random.key(0), labels=[0, 3, 7], steps=50, sampler="ddim", guidance=3.0)
"""

from typing import TYPE_CHECKING

from diffjax import lazy

if TYPE_CHECKING:
    from diffjax import (
        conditions,
        data,
        editing,
        guidance,
        likelihood,
        losses,
        metrics,
        models,
        optimizers,
        rates,
        samplers,
        schedules,
        spaces,
        spacings,
        tasks,
        time_laws,
        weightings,
    )
    from diffjax.drawing import sample
    from diffjax.errors import UserError
    from diffjax.interop import (
        load_autoencoder_kl,
        load_clip,
        load_dit,
        load_image_processor,
        load_tokenizer,
        load_unet2d,
        load_unet2d_condition,
        load_vq_model,
        save_autoencoder_kl,
        save_clip,
        save_dit,
        save_tokenizer,
        save_unet2d,
        save_unet2d_condition,
        save_vq_model,
        scheduler_from_config,
    )
    from diffjax.pipelines import load_pipeline
    from diffjax.process import Process
    from diffjax.randomness import sample_keys
    from diffjax.run_pipeline import save_pipeline
    from diffjax.runs import Run, load, load_towers
    from diffjax.tiling import decode_tiled, encode_tiled

__all__ = [
    "Process",
    "Run",
    "UserError",
    "conditions",
    "data",
    "decode_tiled",
    "editing",
    "encode_tiled",
    "guidance",
    "likelihood",
    "load",
    "load_autoencoder_kl",
    "load_clip",
    "load_dit",
    "load_image_processor",
    "load_pipeline",
    "load_tokenizer",
    "load_towers",
    "load_unet2d",
    "load_unet2d_condition",
    "load_vq_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "rates",
    "sample",
    "sample_keys",
    "samplers",
    "save_autoencoder_kl",
    "save_clip",
    "save_dit",
    "save_pipeline",
    "save_tokenizer",
    "save_unet2d",
    "save_unet2d_condition",
    "save_vq_model",
    "scheduler_from_config",
    "schedules",
    "spaces",
    "spacings",
    "tasks",
    "time_laws",
    "weightings",
]

# Each is imported when it is first asked for: so that a program pays for what it uses.
_MODULES = {
    "Process": "process",
    "Run": "runs",
    "UserError": "errors",
    "decode_tiled": "tiling",
    "encode_tiled": "tiling",
    "load": "runs",
    "load_autoencoder_kl": "interop",
    "load_clip": "interop",
    "load_dit": "interop",
    "load_image_processor": "interop",
    "load_pipeline": "pipelines",
    "load_tokenizer": "interop",
    "load_towers": "runs",
    "load_unet2d": "interop",
    "load_unet2d_condition": "interop",
    "load_vq_model": "interop",
    "sample": "drawing",
    "sample_keys": "randomness",
    "save_autoencoder_kl": "interop",
    "save_clip": "interop",
    "save_dit": "interop",
    "save_pipeline": "run_pipeline",
    "save_tokenizer": "interop",
    "save_unet2d": "interop",
    "save_unet2d_condition": "interop",
    "save_vq_model": "interop",
    "scheduler_from_config": "interop",
}

__getattr__, __dir__ = lazy.parts(__name__, _MODULES, [n for n in __all__ if n not in _MODULES])
