"""What the credentials in images are worth, and keys for trying them."""

import json
from collections.abc import Sequence
from typing import Any

from diffjax.display.marks import read_mark
from diffjax.errors import UserError
from diffjax.runs import run_around
from diffjax.trust.credentials import Verdict, verify
from diffjax.trust.identity import make_ca
from experiments.audits.statuses import VERDICTS
from experiments.flags import kinds

TRUST = kinds.define_path("trust", None, "certificates in PEM whose word counts")
OUT = kinds.define_path("out", None, "the folder of keys to write, which must not exist")


def tell_verdicts(files: Sequence[str], as_json: bool) -> int:
    """Says of each image what its credentials are worth, and what its mark in XMP tells.

    Returns the exit status of the worst.
    """
    worst = 0
    for file in files:
        verdict = verify(file, TRUST.value)
        worst = max(worst, VERDICTS[verdict.state])
        mark = read_mark(file) if verdict.state != "tampered" else None
        if as_json:
            told = {"file": file, "state": verdict.state, "problems": verdict.problems}
            marked = mark and {"run": mark.run, "seed": mark.seed, "drawn": mark.drawn}
            print(json.dumps({**told, "mark": marked, "manifest": verdict.manifest}))
        else:
            print("\n".join([f"{file}: {verdict.state}", *lines(verdict)]))
            if mark is not None:
                print(f"  XMP, unsigned: run {mark.run}, seed {mark.seed}, drawn: {mark.drawn}")
    return worst


def lines(verdict: Verdict) -> list[str]:
    """The verdict's reasons and the manifest, indented."""
    signer = verdict.manifest.get("signature_info", {})
    named = ", ".join(str(signer[key]) for key in ("common_name", "issuer") if key in signer)
    told: dict[str, Any] = {"signed by": named, **verdict.generation}
    told["problems"] = ", ".join(verdict.problems)
    return [f"  {name}: {value}" for name, value in told.items() if value not in ("", [])]


def write_authority() -> None:
    """Makes the keys in --out. Raises UserError where a run would hold them."""
    if (run := run_around(OUT.value)) is not None:
        raise UserError(f"--out={OUT.value} lies in the run {run}: keep keys elsewhere")
    make_ca(OUT.value)
    print(
        f"{OUT.value}: give root.pem to those who verify, sign with --sign={OUT.value}, and keep "
        "key.pem to yourself"
    )
