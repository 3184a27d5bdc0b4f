"""Writes a run as a folder that diffusers' DiffusionPipeline.from_pretrained reads.

python -m experiments.export --run=DIR --out=FOLDER --license=mit --data_license=mit

The folder has a model card, of what the run's folder holds.
"""

import pathlib

from absl import flags

from diffjax import runs
from diffjax.files import write_text
from diffjax.run_pipeline import save_pipeline
from diffjax.tasks.denoisers import DenoiserTask
from diffjax.trust.model_card import LACKS, Told, model_card
from experiments.flags import kinds
from experiments.start import command

RUN = kinds.define_path("run", None, "the run's folder", required=True)
LICENSE = flags.DEFINE_string(
    "license", None, "of the weights, by its name at Hugging Face, such as mit"
)
DATA_LICENSE = flags.DEFINE_string("data_license", None, "of the data set")
WATTS = kinds.define_number(
    "watts", None, "that the machine drew in training, from which energy is estimated", 0
)
FROM = {
    "licence": "--license",
    "data_licence": "--data_license",
    "figures": "experiments.evaluate --judge=DIR",
    "copies": "experiments.audit --task=copies",
    "members": "experiments.audit --task=members",
}
OUT = kinds.define_path("out", None, "the folder to write, which must not exist", required=True)


def main() -> None:
    run = runs.load(RUN.value, DenoiserTask)
    card = model_card(
        run.folder.path,
        run.config.to_dict(),
        Told(LICENSE.value, DATA_LICENSE.value, WATTS.value, published(run.folder.path)),
    )
    name = save_pipeline(run, OUT.value)
    write_text(pathlib.Path(OUT.value) / "README.md", card.text)
    print(f"a {name} of step {run.step} in {OUT.value}")
    if card.lacks:
        lacks = (f"{LACKS[name]} ({FROM[name]})" for name in card.lacks)
        print("its model card is not complete; it lacks " + "; ".join(lacks))


def published(folder: pathlib.Path) -> str:
    """The run's flags without those that name a place on this machine."""
    path = folder / "flags.txt"
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    return "\n".join(line for line in text.splitlines() if "/" not in line)


if __name__ == "__main__":
    command.run(main)
