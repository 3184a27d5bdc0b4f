"""Writes a run's report.html: its pictures, curves, flags and machine on one page.

python -m experiments.report --run=DIR
"""

from diffjax.run_report import write_report
from diffjax.training.run import RunFolder
from experiments.flags import kinds
from experiments.start import command

RUN = kinds.define_path("run", None, "the run's folder", required=True)


def main() -> None:
    run, _ = RunFolder.open(RUN.value)
    print(write_report(run))


if __name__ == "__main__":
    command.run(main)
