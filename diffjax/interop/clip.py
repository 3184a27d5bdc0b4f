"""CLIP and SigLIP in the forms of transformers, open_clip and OpenAI; saved in transformers'."""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.errors import UserError
from diffjax.interop import openai_clip, safetensors
from diffjax.interop.folders import CONFIG, weights_file, write_model
from diffjax.interop.json_files import read_json
from diffjax.interop.torch_names import Slot, slots, to_tensors, to_tree
from diffjax.interop.towers import built, fuse, split_fused
from diffjax.models.clip import CLIP
from diffjax.models.clip_text import CLIPText
from diffjax.models.clip_vision import CLIPVision
from diffjax.models.siglip_text import SigLIPText
from diffjax.models.siglip_vision import SigLIPVision
from diffjax.typing import Params

WEIGHTS = "model.safetensors"
UNUSED = r"(.*\.)?position_ids"
# Where torch counts modules in a list, Linen counts in the name.
LISTS = r"layers|layer\d|downsample"
POOL = "vision_model.head.attention"  # SigLIP's, which torch keeps as one matrix
SCALARS = {"logit_scale", "logit_bias"}  # vectors of one number in some files


class Form(NamedTuple):
    """A kind of model in transformers: its model_type, and the towers that it has."""

    model_type: str
    vision: type | None
    text: type | None


FORMS = {
    "CLIPModel": Form("clip", CLIPVision, CLIPText),
    "CLIPTextModel": Form("clip_text_model", None, CLIPText),
    "CLIPTextModelWithProjection": Form("clip_text_model", None, CLIPText),
    "CLIPVisionModel": Form("clip_vision_model", CLIPVision, None),
    "CLIPVisionModelWithProjection": Form("clip_vision_model", CLIPVision, None),
    "SiglipModel": Form("siglip", SigLIPVision, SigLIPText),
    "SiglipTextModel": Form("siglip_text_model", None, SigLIPText),
    "SiglipVisionModel": Form("siglip_vision_model", SigLIPVision, None),
}
PROJECTIONS = ("text_projection.weight", "visual_projection.weight")


def load_clip(path: str | os.PathLike[str], *, dtype: str = "float32") -> tuple[CLIP, Params]:
    """The model in a folder or file, and its float32 parameters for `model.apply({"params": ...})`.

    Takes transformers' folders of CLIP and SigLIP models, or of one tower; open_clip's folders; a
    .safetensors file beside such a folder's configuration; and OpenAI's TorchScript .pt, of which
    no code is run. `dtype` is what is computed in. Raises UserError, naming it, for what is
    missing, damaged, of another architecture or of another shape.
    """
    path = Path(path).expanduser()
    if path.suffix == ".pt" and path.is_file():
        model, tensors = openai_clip.load_archive(path, dtype)
    else:
        folder, weights = _folder(path)
        load = openai_clip.load_folder if _is_open_clip(folder, weights) else _load_transformers
        model, tensors = load(folder, weights, dtype)
    scalars = {name: tensors[name].reshape(()) for name in SCALARS & _single(tensors)}
    return model, to_tree(str(path), {**tensors, **scalars}, _slots(model), "CLIP")


def save_clip(model: CLIP, params: Params, folder: str | os.PathLike[str]) -> None:
    """Writes `model` and `params` to `folder`, for transformers and load_clip, in float32.

    transformers' from_pretrained of the class that config.json names reads it. Files of the same
    names are replaced, each whole or not at all. Raises UserError for towers that transformers has
    no class for, such as the ResNet, params that are not this model's, and a folder that cannot be
    written or has weights in several files.
    """
    architecture = _architecture(model)
    form = FORMS[architecture]
    tensors = to_tensors(params, _slots(model), LISTS, "CLIP")
    if form.vision is SigLIPVision:
        tensors = fuse(tensors, POOL)
    if form.model_type == "siglip":
        tensors |= {name: tensors[name].reshape(1) for name in SCALARS}
    config = {"architectures": [architecture], "model_type": form.model_type, **_config(model)}
    write_model(Path(folder).expanduser(), WEIGHTS, tensors, config)


def _folder(path: Path) -> tuple[Path, Path | None]:
    """The folder of the configuration, and the file of the weights where one is given."""
    if path.is_dir():
        if not (path / CONFIG).is_file() and (path / "text_encoder" / CONFIG).is_file():
            raise UserError(f"{path} is a whole pipeline: load {path / 'text_encoder'}")
        return path, None
    if not path.exists():
        raise UserError(f"there is no {path}")
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is no folder, .safetensors or TorchScript .pt; torch's other files are Python "
            "pickles, which can run code: save the weights as safetensors"
        )
    return path.parent, path


def _is_open_clip(folder: Path, weights: Path | None) -> bool:
    """Whether to read open_clip's form. Some folders have both, of one model."""
    if not (folder / openai_clip.CONFIG).is_file():
        return False
    if weights is not None:
        return weights.name.startswith("open_clip") or not (folder / CONFIG).is_file()
    return not ((folder / CONFIG).is_file() and list(folder.glob("model*.safetensors*")))


def _load_transformers(
    folder: Path, weights: Path | None, dtype: str
) -> tuple[CLIP, dict[str, np.ndarray]]:
    path = folder / CONFIG
    config = read_json(path)
    architecture = _named(path, config)
    form = FORMS[architecture]
    tensors = safetensors.read(weights or weights_file(folder, WEIGHTS), UNUSED)
    tensors = split_fused(_prefixed(tensors, form))
    sections = {
        "vision_model": _section(path, config, "vision_config"),
        "text_model": _section(path, config, "text_config"),
    }
    towers = {
        name: (_spec_name(tower), {**_options(tower, sections[name]), "dtype": dtype})
        for name, tower in (("vision_model", form.vision), ("text_model", form.text))
        if tower is not None
    }
    if sections["vision_model"].get("vision_use_head") is False:
        raise UserError(f"{path}: vision_use_head=false leaves images without an embedding")
    size = config.get("projection_dim", 512) if _is_projected(architecture, tensors) else None
    return built(path, towers, size, form.model_type == "siglip"), tensors


def _named(path: Path, config: Mapping[str, object]) -> str:
    """The class that a configuration is of. Raises UserError for one that is not known here."""
    names, model_type = config.get("architectures"), config.get("model_type")
    name = names[0] if isinstance(names, list) and names else None
    if name is None:  # the class that transformers calls by the type alone
        name = next((n for n, form in FORMS.items() if form.model_type == model_type), model_type)
    if name not in FORMS:
        raise UserError(f"{path} is of a {name}, not one of {', '.join(FORMS)}")
    return str(name)


def _section(path: Path, config: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The options of one tower: those of a model of one tower are not in a section.

    Old files have the section twice, and transformers reads `text_config_dict`.
    """
    if config.get("model_type") not in ("clip", "siglip"):
        return config
    section = config.get(f"{name}_dict") or config.get(name) or {}
    if not isinstance(section, dict):
        raise UserError(f"{path}: {name} is {section!r}, not an object of options")
    return section


def _options(tower: type, section: Mapping[str, object]) -> dict[str, object]:
    """The tower's options that the file has. Its many others have no effect on the outputs."""
    return {name: section[name] for name in _fields(tower) if section.get(name) is not None}


def _fields(tower: type) -> list[str]:
    hidden = {"dtype", "parent", "name"}
    return [field.name for field in fields(tower) if field.name not in hidden]


def _spec_name(tower: type) -> str:
    return tower.__module__.rpartition(".")[2]


def _prefixed(tensors: dict[str, np.ndarray], form: Form) -> dict[str, np.ndarray]:
    """The tensors of one tower under its name, which later releases leave out."""
    prefix = "text_model." if form.vision is None else "vision_model."
    if (form.vision and form.text) or any(name.startswith(prefix) for name in tensors):
        return tensors
    return {name if name in PROJECTIONS else prefix + name: v for name, v in tensors.items()}


def _is_projected(architecture: str, tensors: Mapping[str, np.ndarray]) -> bool:
    by_name = architecture == "CLIPModel" or architecture.endswith("WithProjection")
    return by_name or any(name in tensors for name in PROJECTIONS)


def _single(tensors: Mapping[str, np.ndarray]) -> set[str]:
    return {name for name, value in tensors.items() if value.size == 1}


def _slots(model: CLIP) -> dict[str, Slot]:
    """Every parameter of the model, by the name that transformers knows it by."""
    vision, text, shape = model.vision_model, model.text_model, jax.ShapeDtypeStruct
    given: list[Any] = []
    if vision is not None:
        size = vision.image_size
        given.append(shape((1, size, size, vision.num_channels), jnp.float32))
    if text is not None:
        given.append(shape((1, 1), jnp.int32))
    method = "encode_image" if text is None else "encode_text" if vision is None else "__call__"
    tree = jax.eval_shape(lambda *a: model.init(jax.random.key(0), *a, method=method), *given)
    return slots(tree["params"], LISTS)


def _architecture(model: CLIP) -> str:
    """The class of transformers that computes what the model computes."""
    towers = tuple(t and type(t) for t in (model.vision_model, model.text_model))
    if all(towers) and (SigLIPText in towers) != model.bias:
        raise UserError(
            f"clip(bias={model.bias}): transformers adds a bias to the logits of SigLIP alone"
        )
    projected = model.projection_dim is not None
    for name, form in FORMS.items():
        needs = name == "CLIPModel" or name.endswith("WithProjection")
        of_clip = CLIPText in towers or CLIPVision in towers
        if (form.vision, form.text) == towers and (needs == projected or not of_clip):
            return name
    names = " and ".join(tower.__name__ for tower in towers if tower)
    raise UserError(
        f"transformers has no class for {names} with projection_dim={model.projection_dim}"
    )


def _config(model: CLIP) -> dict[str, object]:
    """The options in config.json, a section per tower where there are two."""
    sections = {}
    for tower, name in ((model.vision_model, "vision_config"), (model.text_model, "text_config")):
        if tower is not None:
            sections[name] = {option: getattr(tower, option) for option in _fields(type(tower))}
    size = {} if model.projection_dim is None else {"projection_dim": model.projection_dim}
    if len(sections) == 2:
        return {**sections, **size}
    (section,) = sections.values()
    return {**section, **size}
