"""A run as objects: what it is, and the components that it has learnt."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

import diffjax.data
import diffjax.interop
import diffjax.optimizers
import diffjax.rates
import diffjax.tasks
from diffjax import spec
from diffjax.checksum import checksum
from diffjax.data import Records
from diffjax.errors import UserError, listed
from diffjax.guidance.plan import Guidance
from diffjax.interop.json_files import read_json
from diffjax.metrics.lpips import DISTANCES, NETWORKS, load_lpips
from diffjax.models.stateful import merge_state, split_state
from diffjax.rates.base import RateLaw
from diffjax.samplers.base import Sampler
from diffjax.spacings.base import Spacing
from diffjax.tasks.base import Asked, Component, Samples, Source, Task, params_of, shapes
from diffjax.tasks.classifier import CLASSIFIER
from diffjax.tasks.contrastive import Contrastive
from diffjax.tasks.denoisers import AUTOENCODER, DENOISER
from diffjax.tasks.towers import CLIP_TOWERS, Towers, towers_of_files
from diffjax.training.averages import average
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.optimizers import make_optimizer
from diffjax.training.run import CONFIG, RunFolder, as_text, flat
from diffjax.typing import Images, Params

T = TypeVar("T", bound=Task)
LPIPS = "lpips"  # the component of a file of LPIPS


@dataclasses.dataclass(frozen=True)
class Training:
    """How a run learns: with its task, all that its weights depend on, and its checkpoints.

    dataset, optimizer and rate, the law of the learning rate, are specs; learning_rate is the
    highest, reached after warmup_steps. averages: whether two averages of the weights are kept
    besides, of which `Run.averaged` makes others.
    """

    dataset: str = "embedded"
    image_size: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 2e-4
    warmup_steps: int = 100
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    optimizer: str = "adam"
    rate: str = "cosine"
    averages: bool = False

    def make_optimizer(self, steps: int) -> optax.GradientTransformation:
        """The optimizer of a run of so many steps."""
        return make_optimizer(
            self.learning_rate,
            steps,
            warmup_steps=self.warmup_steps,
            grad_clip=self.grad_clip,
            optimizer=spec.build(self.optimizer, diffjax.optimizers),
            rate=self.rate_law,
        )

    @property
    def rate_law(self) -> RateLaw:
        """How the learning rate goes."""
        law: RateLaw = spec.build(self.rate, diffjax.rates)
        return law

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; what older runs lack is left out at its default."""
        values = dataclasses.asdict(self)
        added = {name: getattr(Training, name) for name in ("optimizer", "rate", "averages")}
        return {n: v for n, v in values.items() if n not in added or v != added[n]}

    def open(
        self, split: diffjax.data.Split, data_dir: str | None = None, max_bad_records: int = 0
    ) -> Records:
        """The images of a split, in the run's size; data_dir: where prepared TFDS sets lie."""
        dataset = spec.build(self.dataset, diffjax.data, {"data_dir": data_dir})
        return dataset.open(split, self.image_size, max_bad_records)


@dataclasses.dataclass(frozen=True)
class RunConfig(Generic[T]):
    """What a run is: two of one config, and of one length, end in the same weights."""

    task: T
    training: Training

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        training = self.training.to_dict()
        return {"task": self.task.name, "config": self.task.to_dict(), "training": training}

    def open(
        self, split: diffjax.data.Split, data_dir: str | None = None, max_bad_records: int = 0
    ) -> Records:
        """As `Training.open`. Raises UserError where the classes are no longer those of the run."""
        records = self.training.open(split, data_dir, max_bad_records)
        condition = getattr(self.task, "condition", None)
        if condition is not None and not condition.fits(records.class_names):
            raise UserError(
                f"the run knows the classes {listed(condition.names)}, and its data set "
                f"{self.training.dataset} has {listed(records.class_names)} now: put them back"
            )
        return records

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig[Any]":
        """As `to_dict` told. Raises UserError for values of no run."""
        if not {"task", "config", "training"} <= values.keys():
            raise UserError("another version of diffjax made it: use that version")
        task: Any = spec.lookup(values["task"], diffjax.tasks)
        try:
            training = Training(**values["training"])
        except TypeError as error:
            raise UserError(str(error)) from error
        return cls(task.from_dict(values["config"]), training)

    def name(self) -> str:
        """A name for the folder that is this config's own, wherever its sources lie."""
        dataset = self.training.dataset.partition("(")[0]
        return f"{self.task.name}_{dataset}_{self.digest()[:8]}"

    def digest(self) -> str:
        """SHA-256, in hex, of all that makes the run what it is."""
        return hashlib.sha256(as_text(flat(self.to_dict())).encode()).hexdigest()


class Options(TypedDict, total=False):
    """What `Run.sample` takes besides its key; defaults are those of tasks.base.Asked."""

    labels: Sequence[Any] | np.ndarray | None
    num: int | None
    steps: int
    sampler: str | Sampler
    spacing: Spacing | None
    guidance: float | Sequence[float] | Guidance
    negative: Sequence[Any] | np.ndarray | None
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Run(Generic[T]):
    """What a run has learnt: its components with the EMA weights of its newest checkpoint."""

    folder: RunFolder
    config: RunConfig[T]
    step: int
    components: Mapping[str, Component]

    @property
    def task(self) -> T:
        """What kind of run it is, and its options."""
        return self.config.task

    def __getitem__(self, name: str) -> Component:
        """A component by its name. Raises UserError for another name."""
        if name not in self.components:
            raise UserError(f"no {name!r} in this run: it has {', '.join(self.components)}")
        return self.components[name]

    def averaged(self, relative_std: float, step: int | None = None) -> "Run[T]":
        """The run with an average of its weights of another length, in (0, 0.28] of its training.

        step: at which it ends, one of a checkpoint; by default the run's last.
        Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models".
        Raises UserError for a run that was trained without averages, and for another step.
        """
        trained = {name: c.params for name, c in self.components.items() if c.trained}
        _, model_state = split_state(trained)
        end = self.step if step is None else step
        found = average(self.folder.averages, end, relative_std)
        params = merge_state(found, model_state)
        components = trained_components(self.task, params)
        return dataclasses.replace(self, step=end, components={**self.components, **components})

    @overload
    def sample(
        self, key: Key[Array, ""], *, film: Literal[False] = False, **options: Unpack[Options]
    ) -> Images: ...
    @overload
    def sample(
        self, key: Key[Array, ""], *, film: Literal[True], **options: Unpack[Options]
    ) -> Samples: ...
    def sample(
        self, key: Key[Array, ""], *, film: bool = False, **options: Unpack[Options]
    ) -> Images | Samples:
        """Images in [-1, 1], float32 NHWC; with `film` the trajectory of the first ones too.

        run.sample(key, labels=[0, 3, 7], steps=50, sampler="ddim", guidance=3.0), or num=16.

        labels: what the images are conditioned on, one per image; with num they repeat in turn, and
        without labels each class comes in turn. sampler: a spec or an object. spacing: the times
        that it visits, by default those it does best on. guidance: the scale of classifier-free
        guidance, 1 is off; one for all, one per image, or a guidance.plan.Guidance. negative:
        labels to guide away from, in place of the null condition. The images depend on neither
        batch_size nor the number of devices. Raises UserError for what the run cannot do.
        """
        found = self.task.sample(self.components, key, Asked(**options))
        return found if film else found.images

    def open(self, split: diffjax.data.Split, data_dir: str | None = None) -> Records:
        """The images of a split of the run's data set. Raises UserError where it is not there."""
        return self.config.open(split, data_dir)


def open_run(folder: str | os.PathLike[str]) -> tuple[RunFolder, RunConfig[Any]]:
    """A run's folder and config. Raises UserError where there is none."""
    run, values = RunFolder.open(folder)
    try:
        return run, RunConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{run.path / CONFIG} cannot be read as a run's config: {error}") from error


def load(folder: str | os.PathLike[str], kind: type[T] = Task) -> Run[T]:  # type: ignore[assignment]
    """The run in `folder`, at its newest sound checkpoint.

    Raises UserError where there is none, for a run of another kind, and where the weights that a
    component came from are no longer the same.
    """
    run, config = open_run(folder)
    task = config.task
    check_kind(folder, task, kind)
    frozen = load_frozen(task, training=False)
    step, trained = newest(run, shapes(task, params_of(frozen)))
    return Run(run, config, step, {**frozen, **trained_components(task, trained)})


def trained_components(task: Task, params: Mapping[str, Params]) -> dict[str, Component]:
    """The components that a task trains, with these weights."""
    return {name: Component(model, params[name]) for name, model in task.networks().items()}


def check_kind(folder: str | os.PathLike[str], task: Task, kind: type[Task]) -> None:
    """Raises UserError for a run of another kind."""
    if not isinstance(task, kind):
        found = ((name, spec.lookup(name, diffjax.tasks)) for name in spec.names(diffjax.tasks))
        wanted = " or ".join(name for name, each in found if issubclass(each, kind))
        raise UserError(f"{folder} is {_a(task.name)} run, where {_a(wanted)} run is needed")


def _a(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def newest(run: RunFolder, like: Params) -> tuple[int, Params]:
    """Step and EMA weights of the newest sound checkpoint, of the shapes of `like`."""
    params, model_state = split_state(like)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    wanted = {"step": step, "ema_params": params, "model_state": model_state}
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(wanted)
        return int(state["step"]), merge_state(state["ema_params"], state["model_state"])


def load_frozen(task: Task, *, training: bool) -> dict[str, Component]:
    """The components that a task takes from elsewhere, by name.

    Raises UserError for one that is missing, and for one whose weights have changed.
    """
    left_out = () if training else task.training_only
    return {
        name: load_source(source) for name, source in task.sources.items() if name not in left_out
    }


def load_source(source: Source) -> Component:
    """The component that `source_of` named. Raises UserError where its weights have changed."""
    component = _component(source.path, source.component)
    if checksum(component.params) != source.digest:
        raise UserError(
            f"the {source.component} of {source.path} has other weights than those that this run "
            "was made with: put those back"
        )
    return dataclasses.replace(component, source=source)


def source_of(folder: str | os.PathLike[str], component: str) -> Source:
    """A component of a run, or of a folder of diffusers' UNet2DModel, as another run's source."""
    path = os.fspath(folder)
    return Source(path, component, checksum(_component(path, component).params))


def features_of(path: str | os.PathLike[str]) -> Source:
    """A network whose layers compare images, as a source: a classifier's run, or a file of LPIPS.

    Raises UserError for what is neither.
    """
    return source_of(path, CLASSIFIER if pathlib.Path(path).expanduser().is_dir() else LPIPS)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether it is a run's folder, and not one with weights of another library."""
    config = pathlib.Path(path).expanduser() / CONFIG
    return config.is_file() and "task" in read_json(config)


def run_around(path: str | os.PathLike[str]) -> pathlib.Path | None:
    """The run's folder that a path names or lies in; None where there is none."""
    folder = pathlib.Path(path).expanduser().resolve()
    return next(filter(is_run, (folder, *folder.parents)), None)


def load_towers(path: str | os.PathLike[str]) -> Towers:
    """A CLIP's two towers, of a contrastive run or of what `load_clip` reads.

    Raises UserError where there is neither.
    """
    if is_run(path):
        run = load(path, Contrastive)
        name = f"{run.folder.path.resolve().name}, step {run.step}"
        return dataclasses.replace(run.task.towers(params_of(run.components)), name=name)
    return towers_of_files(path)


def _component(path: str, name: str) -> Component:
    if name == CLIP_TOWERS:
        return load_towers(path)
    if name == LPIPS:
        distance, params = load_lpips(path)
        network = next(NETWORKS[each] for each, own in DISTANCES.items() if own is distance)
        return Component(network, params)
    config = pathlib.Path(path).expanduser() / CONFIG
    kind = read_json(config).get("_class_name") if config.is_file() else None
    if kind is None:
        return load(path)[name]
    own, read = FOLDERS.get(str(kind), (str(kind), "load_unet2d"))
    if own != name:
        raise UserError(f"{path} holds a {own} alone, and no {name}")
    return Component(*getattr(diffjax.interop, read)(config.parent))


# What folders of diffusers hold, by their class, and the function of interop that reads them.
FOLDERS = {
    "UNet2DModel": (DENOISER, "load_unet2d"),
    "DiTTransformer2DModel": (DENOISER, "load_dit"),
    "AutoencoderKL": (AUTOENCODER, "load_autoencoder_kl"),
    "VQModel": (AUTOENCODER, "load_vq_model"),
}
