"""Measures a run: its images by a judge, real ones by their likelihood, guidance by its price.

python -m experiments.evaluate --run=DIR --judge=DIR2 --num=1000
python -m experiments.evaluate --run=DIR --metrics=bpd --num=100
python -m experiments.evaluate --run=DIR --judge=DIR2 --metrics=guidance
python -m experiments.evaluate --run=DIR --judge=DIR2 --metrics=averages
python -m experiments.evaluate --run=DIR --judge=DIR2 --metrics=assessment --guidance=1.5
python -m experiments.evaluate --run=DIR --metrics=clip_score --clip=DIR2 --num=200
Real images are ones that are held out of training.
"""

from absl import flags

from diffjax import runs
from diffjax.errors import UserError
from diffjax.tasks.autoencoder import Autoencoding
from diffjax.tasks.denoisers import DenoiserTask
from experiments.evaluations import (
    assessment,
    bpd,
    caption_fit,
    class_balance,
    drawn,
    held_out,
    judged,
    lengths,
    loss,
    reconstructions,
    sweep,
)
from experiments.evaluations.saved import read_saved, rewrite, warn_if_read_only
from experiments.flags import cpu_devices, kinds, marking
from experiments.start import command

for module in (
    cpu_devices,
    marking,
    held_out,
    drawn,
    lengths,
    caption_fit,
    loss,
    bpd,
    reconstructions,
):
    flags.adopt_module_key_flags(module)
RUN = kinds.define_path("run", None, "the folder of the run that is measured", required=True)
CHOSEN = flags.DEFINE_list(
    "metrics", ["judge"],
    "which of judge, what a judge sees in drawn images; loss, the network's error on held-out "
    "ones; bpd, their bits/dim; guidance, what each scale buys; assessment, whether a judge sees "
    "the classes asked for; averages, what each length of the weights' average buys; bias, "
    "whether it sees classes as often and as well as in real images; clip_score, whether a CLIP "
    "sees the captions asked for; or reconstruction, of a run of experiments.vae",
)  # fmt: skip
JUDGED = {
    "judge": judged.judge_samples,
    "guidance": sweep.sweep,
    "averages": lengths.sweep_lengths,
    "assessment": assessment.assess,
    "bias": class_balance.tell_bias,
}
DRAWN = {**JUDGED, "clip_score": caption_fit.score_captions}
HELD_OUT = {"loss": loss.tell_loss, "bpd": bpd.tell_bits}
RECONSTRUCTION = "reconstruction"
METRICS = (*DRAWN, *HELD_OUT, RECONSTRUCTION)


def main() -> None:
    if RECONSTRUCTION in CHOSEN.value and len(CHOSEN.value) > 1:
        raise UserError(
            f"--metrics={','.join(CHOSEN.value)}: reconstruction is of an autoencoder, and the "
            "others of what a run draws: give it alone"
        )
    unknown = [metric for metric in CHOSEN.value if metric not in METRICS]
    if unknown or not CHOSEN.value:
        raise UserError(f"--metrics={','.join(CHOSEN.value)}: choose among {', '.join(METRICS)}")
    draws = [metric for metric in CHOSEN.value if metric in DRAWN]
    check_flags(draws)
    cpu_devices.split_cpu(cpu_devices.cores())
    folder, config = runs.open_run(RUN.value)
    of_stage = CHOSEN.value == [RECONSTRUCTION]
    runs.check_kind(RUN.value, config.task, Autoencoding if of_stage else DenoiserTask)
    path = folder.path / "evaluation.json"
    read_saved(path)  # or it would be found broken when all is done
    warn_if_read_only(path)
    if of_stage:
        reconstructions.tell_reconstructions(runs.load(RUN.value, Autoencoding), path)
        rewrite(folder)
        return
    told = [metric for metric in CHOSEN.value if metric in HELD_OUT]
    if "bpd" in told:
        bpd.check(config.task)
    if "clip_score" in draws:
        caption_fit.check(config.task)
    real = held_out.of_run(config, held_out.read_by(config.task)) if told else None
    run = runs.load(RUN.value, DenoiserTask)
    for metric in draws:
        DRAWN[metric](run, path)
    if real is not None:
        for metric in told:
            HELD_OUT[metric](run, real, path)
    rewrite(folder)


def check_flags(draws: list[str]) -> None:
    """Raises UserError for a flag of a metric that is not measured, and without a judge."""
    owned = (
        (("loss",), loss.OWN), (("averages",), lengths.OWN), (("bpd",), bpd.OWN),
        (tuple(JUDGED), (drawn.JUDGE, *drawn.OF_IMAGES)),
        ((*JUDGED, RECONSTRUCTION), drawn.FEATURES), ((RECONSTRUCTION,), reconstructions.OWN),
        (tuple(DRAWN), drawn.DRAWING), (("assessment",), (marking.MARK,)),
        (("clip_score",), caption_fit.OWN),
    )  # fmt: skip
    for metrics, own in owned:
        for flag in own:
            if flag.present and not set(metrics) & set(CHOSEN.value):
                raise UserError(
                    f"--{flag.name} does nothing without --metrics={' or '.join(metrics)}"
                )
    judged_by = [metric for metric in draws if metric in JUDGED]
    if judged_by and drawn.JUDGE.value is None:
        raise UserError(
            f"{judged_by[0]} needs --judge, a run of experiments.classifier; or --metrics=loss,bpd"
        )


if __name__ == "__main__":
    command.run(main)
