"""Says where images come from: verifies their Content Credentials, and makes keys for trying them.

python -m experiments.audit --task=verify --file=IMAGE --file=IMAGE2 --trust=ROOT.pem
python -m experiments.audit --task=make_ca --out=FOLDER
"""

import json
from typing import Any

from absl import flags

from diffjax.display.marks import read_mark
from diffjax.errors import UserError
from diffjax.runs import run_around
from diffjax.trust.credentials import Verdict, verify
from diffjax.trust.identity import make_ca
from experiments.flags import kinds
from experiments.start import command

TASK = flags.DEFINE_enum(
    "task", None, ["verify", "make_ca"],
    "verify: what the credentials in images are worth; make_ca: an authority and a signer's key, "
    "for trying",
    required=True,
)  # fmt: skip
FILE = kinds.define_paths("file", "an image; may be given more than once")
TRUST = kinds.define_path("trust", None, "certificates in PEM whose word counts")
JSON = flags.DEFINE_boolean("json", False, "say it in JSON, one object a file and line")
OUT = kinds.define_path("out", None, "the folder to write, which must not exist")
OF_TASKS = {"verify": (FILE, TRUST, JSON), "make_ca": (OUT,)}


def main() -> None:
    for task, own in OF_TASKS.items():
        for flag in own:
            if flag.present and task != TASK.value:
                raise UserError(f"--{flag.name} does nothing without --task={task}")
    {"verify": tell_verdicts, "make_ca": write_authority}[TASK.value]()


def tell_verdicts() -> None:
    if not FILE.value:
        raise UserError("--task=verify needs an image: give --file")
    for file in FILE.value:
        verdict = verify(file, TRUST.value)
        mark = read_mark(file) if verdict.state != "tampered" else None
        if JSON.value:
            told = {"file": file, "state": verdict.state, "problems": verdict.problems}
            marked = mark and {"run": mark.run, "seed": mark.seed, "drawn": mark.drawn}
            print(json.dumps({**told, "mark": marked, "manifest": verdict.manifest}))
        else:
            print("\n".join([f"{file}: {verdict.state}", *lines(verdict)]))
            if mark is not None:
                print(f"  XMP, unsigned: run {mark.run}, seed {mark.seed}, drawn: {mark.drawn}")


def lines(verdict: Verdict) -> list[str]:
    """The verdict's reasons and the manifest, indented."""
    signer = verdict.manifest.get("signature_info", {})
    named = ", ".join(str(signer[key]) for key in ("common_name", "issuer") if key in signer)
    told: dict[str, Any] = {"signed by": named, **verdict.generation}
    told["problems"] = ", ".join(verdict.problems)
    return [f"  {name}: {value}" for name, value in told.items() if value not in ("", [])]


def write_authority() -> None:
    if OUT.value is None:
        raise UserError("--task=make_ca needs a folder to write: give --out")
    if (run := run_around(OUT.value)) is not None:
        raise UserError(f"--out={OUT.value} lies in the run {run}: keep keys elsewhere")
    make_ca(OUT.value)
    print(
        f"{OUT.value}: give root.pem to those who verify, sign with --sign={OUT.value}, and keep "
        "key.pem to yourself"
    )


if __name__ == "__main__":
    command.run(main)
