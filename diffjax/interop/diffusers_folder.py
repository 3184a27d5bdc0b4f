"""Networks in the form that diffusers saves and loads: config.json and weights in safetensors."""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.interop.folders import CONFIG, weights_file, write_model
from diffjax.interop.json_files import read_json
from diffjax.interop.safetensors import Entry, Tensors, entries
from diffjax.interop.torch_names import Put, Slot, slots, to_tensors, to_tree
from diffjax.typing import Params

WEIGHTS = "diffusion_pytorch_model.safetensors"
DTYPE = "_diffjax_dtype"  # an option of ours; diffusers passes over names that begin with _
# How it is computed, what it takes here alone, and what Linen adds: no options of diffusers.
OURS = {"dtype", "remat", "cond_dim", "bottleneck_dim", "quantiser", "parent", "name"}
# Where torch counts modules in a list, Linen counts in the name.
LISTS = (
    "down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|to_out|transformer_blocks|net"
)
# What diffusers' first releases called the layers of attention.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Form(Generic[Model]):
    """A class of diffusers, and the network of ours that has its options and its layers."""

    name: str  # of diffusers' class
    network: str  # what messages call it
    model: type[Model]
    inputs: Callable[[Model], tuple[Any, ...]]  # shapes of what is given to `init` after the key
    fixed: Mapping[str, object] = field(default_factory=dict)  # options with one value alone
    subfolder: str = "unet"  # of a pipeline
    old_names: tuple[str, ...] = ()  # of the same class in older folders
    ours: frozenset[str] = frozenset()  # fields that diffusers' class lacks, besides OURS

    @property
    def options(self) -> set[str]:
        """The options of diffusers' class that are fields of ours."""
        return {field.name for field in fields(self.model)} - OURS - self.ours  # type: ignore[arg-type]


def load(
    folder: str | os.PathLike[str], form: Form[Model], put: Put = jnp.asarray
) -> tuple[Model, Params]:
    """The network saved in `folder`, and its float32 parameters for `model.apply({"params": ...})`.

    `put` is given each parameter as soon as it is read, and puts it on its devices. An option that
    neither side has is passed over, with a warning, where it is false or null.
    Raises UserError, naming it, for what is missing, damaged, unknown, of the wrong shape, or an
    option that the network does not support.
    """
    folder = Path(folder).expanduser()
    part = folder / form.subfolder
    if not (folder / CONFIG).is_file() and (part / CONFIG).is_file():
        raise UserError(f"{folder} is a whole pipeline: load {part}")
    model = _read_config(folder / CONFIG, form)
    path = weights_file(folder, WEIGHTS)
    tensors = Tensors(dict(_renewed(name, entry) for name, entry in entries(path).items()))
    return model, to_tree(str(path), tensors, slots_of(model, form), form.network, put)


def save(model: Model, params: Params, folder: str | os.PathLike[str], form: Form[Model]) -> None:
    """Writes `model` and `params` to `folder`, for diffusers' from_pretrained and for `load`.

    Files of the same names are replaced, each whole or not at all. Raises UserError for params that
    are not this model's, a folder that cannot be written, and one with weights in several files.
    """
    given = to_tensors(params, slots_of(model, form), LISTS, form.network)
    options = {name: getattr(model, name) for name in sorted(form.options)}
    config = {"_class_name": form.name, DTYPE: getattr(model, "dtype", None), **options}
    write_model(Path(folder).expanduser(), WEIGHTS, given, config)


def _read_config(path: Path, form: Form[Model]) -> Model:
    config = read_json(path)
    if config.get("_class_name") not in (form.name, *form.old_names):
        raise UserError(f"{path} is of a {config.get('_class_name')}, not a {form.name}")
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in sorted(options.keys() - form.options):
        _check_foreign(path, form, name, options.pop(name))
    options["dtype"] = config.get(DTYPE, "float32")
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    try:
        kind = form.model.__module__.rpartition(".")[2]
        model: Model = spec.build(f"{kind}({text})", diffjax.models)
    except UserError as error:
        raise UserError(f"{path}: {error}", error.option) from error
    return model


def _check_foreign(path: Path, form: Form[Any], name: str, value: object) -> None:
    """Refuses an option that is no field of ours, unless it changes nothing."""
    if name in form.fixed:
        only = form.fixed[name]
        if value != only and (value or only):  # null and false both stand for off
            raise UserError(f"{path}: {name}={value!r} is not supported: only {only!r} is")
        return
    # Later releases write options that are off, or not given, as false or null.
    if value is not None and value is not False:
        raise UserError(f"{path}: {form.name} has no option {name!r}: remove it")
    warnings.warn(f"{path}: passing over option {name!r}, which is off", stacklevel=5)


def slots_of(model: Model, form: Form[Model]) -> dict[str, Slot]:
    """Every parameter of the model, by the name that torch knows it by."""
    tree = jax.eval_shape(model.init, jax.random.key(0), *form.inputs(model))
    return slots(tree["params"], LISTS)


def _renewed(name: str, entry: Entry) -> tuple[str, Entry]:
    """A tensor as today's releases save it: attention of old ones may be convolutions of 1x1."""
    old = "|".join(OLD_NAMES)
    found = re.fullmatch(rf"(.*\battentions\.\d+\.)({old})(\..*)", name)
    if found:
        name = f"{found[1]}{OLD_NAMES[found[2]]}{found[3]}"
    of_attention = re.search(r"\battentions\.\d+\.to_(q|k|v|out\.0)\.weight$", name)
    if of_attention and entry.shape[2:] == (1, 1):
        entry = entry._replace(shape=entry.shape[:2])
    return name, entry
