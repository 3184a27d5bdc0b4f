"""Measures what this library does, on this machine.

python -m experiments.benchmark samplers --run=DIR --judge=DIR2
"""

import importlib
import pkgutil
import sys

from absl import flags

import experiments.benchmarks
from experiments.start import command


def main() -> None:
    names = sorted(info.name for info in pkgutil.iter_modules(experiments.benchmarks.__path__))
    given = sys.argv[1:2]
    if given and given[0].lstrip("-").startswith("help"):
        print(f"{__doc__}\nbenchmarks: {', '.join(names)}; each has its own --help")
        return
    if not given or given[0] not in names:
        what = f"no benchmark {given[0]!r}" if given else "no benchmark given"
        print(f"error: {what}: choose one of: {', '.join(names)}", file=sys.stderr)
        sys.exit(2)
    name = sys.argv.pop(1)
    module = importlib.import_module(f"experiments.benchmarks.{name}")  # now: it defines its flags
    flags.adopt_module_key_flags(module)
    command.run(module.main)


if __name__ == "__main__":
    main()
