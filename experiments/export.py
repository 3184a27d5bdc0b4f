"""Writes a run as a folder that diffusers' DiffusionPipeline.from_pretrained reads.

python -m experiments.export --run=DIR --out=FOLDER
"""

from diffjax import runs
from diffjax.run_pipeline import save_pipeline
from diffjax.tasks.denoisers import DenoiserTask
from experiments.flags import kinds
from experiments.start import command

RUN = kinds.define_path("run", None, "the run's folder", required=True)
OUT = kinds.define_path("out", None, "the folder to write, which must not exist", required=True)


def main() -> None:
    run = runs.load(RUN.value, DenoiserTask)
    name = save_pipeline(run, OUT.value)
    print(f"a {name} of step {run.step} in {OUT.value}")


if __name__ == "__main__":
    command.run(main)
