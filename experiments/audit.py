"""Says where images come from, and what a run has memorised.

python -m experiments.audit --task=verify --file=IMAGE --file=IMAGE2 --trust=ROOT.pem
python -m experiments.audit --task=make_ca --out=FOLDER
python -m experiments.audit --task=detect --run=DIR --watermark="tree_ring(secret='S')" --file=IMAGE
python -m experiments.audit --task=robustness --run=DIR --watermark="tree_ring(secret='S')"
python -m experiments.audit --task=copies --run=DIR
python -m experiments.audit --task=members --run=DIR
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from diffjax import runs
from diffjax.errors import UserError
from diffjax.tasks.denoisers import DenoiserTask
from experiments.audits import asked, detection, remembered, robustness, statuses, verdicts
from experiments.evaluations.saved import rewrite, save
from experiments.flags import cpu_devices, kinds, marking, watermarking
from experiments.start import command

for module in (cpu_devices, marking, asked, verdicts, remembered, detection):
    flags.adopt_module_key_flags(module)
TASK = flags.DEFINE_enum(
    "task", None, ["verify", "make_ca", "detect", "robustness", "copies", "members"],
    "verify: what the credentials in images are worth; make_ca: an authority and a signer's key, "
    "for trying; detect: whether images carry a watermark; robustness: what changes of an image it "
    "withstands; copies: which samples are copies of training images; members: how well images "
    "that were trained on can be told from others",
    required=True,
)  # fmt: skip
RUN = kinds.define_path("run", None, "the run that images are drawn from")
FILE = kinds.define_paths("file", "an image; may be given more than once")
JSON = flags.DEFINE_boolean("json", False, "say it in JSON, one object an image and line")
OF_TASKS = {
    "verify": (FILE, JSON, verdicts.TRUST),
    "make_ca": (verdicts.OUT,),
    "detect": (RUN, FILE, JSON, asked.STEPS, *detection.OWN),
    "robustness": (RUN, asked.NUM, asked.SEED, asked.STEPS, asked.DATA_DIR, *detection.OWN),
    "copies": (RUN, asked.STEPS, marking.MARK, remembered.JUDGE, *remembered.OWN),
    "members": (RUN, remembered.DRAWS, *remembered.OWN),
}
NEEDED = {
    "verify": (FILE,),
    "make_ca": (verdicts.OUT,),
    "detect": (RUN, FILE, watermarking.WATERMARK),
    "robustness": (RUN, watermarking.WATERMARK),
    "copies": (RUN,),
    "members": (RUN,),
}


def main() -> None:
    task = TASK.value
    names = {task: [flag.name for flag in own] for task, own in OF_TASKS.items()}
    for flag in (flag for own in OF_TASKS.values() for flag in own):
        if flag.present and flag.name not in names[task]:
            tasks = " or ".join(each for each, own in names.items() if flag.name in own)
            raise UserError(f"--{flag.name} does nothing without --task={tasks}")
    for flag in NEEDED[task]:
        if not flag.value:
            raise UserError(f"--task={task} needs --{flag.name}")
    files = FILE.value or []
    match task:
        case "verify":
            sys.exit(verdicts.tell_verdicts(files, JSON.value))
        case "make_ca":
            verdicts.write_authority()
        case "detect":
            sys.exit(detection.tell_found(_run(), watermarking.asked(), files, JSON.value))
        case "robustness":
            tell = functools.partial(robustness.tell_robustness, watermark=watermarking.asked())
            _keep(task, _run(), tell)
        case "copies":
            sys.exit(statuses.of_copies(_keep(task, _run(), remembered.tell_copies)))
        case "members":
            sys.exit(statuses.of_members(_keep(task, _run(), remembered.tell_members)))


def _run() -> runs.Run[DenoiserTask]:
    cpu_devices.split_cpu(cpu_devices.cores())
    return runs.load(RUN.value, DenoiserTask)


def _keep(
    task: str, run: runs.Run[DenoiserTask], tell: Callable[[runs.Run[DenoiserTask]], dict[str, Any]]
) -> dict[str, Any]:
    """What a task finds, which is written into the run's folder and onto its page."""
    found = tell(run)
    print(save(run.folder.path / "audit.json", {task: {"step": run.step, **found}}))
    rewrite(run.folder)
    return found


if __name__ == "__main__":
    command.run(main)
