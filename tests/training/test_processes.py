"""What a process that fails among others prints before all end."""

import os

import jax
import pytest

from diffjax.errors import UserError
from diffjax.training.processes import joined


def test_a_refusal_is_printed_in_the_words_of_the_program(monkeypatch, capsys):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: None)

    def exits(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", exits)
    with (
        pytest.raises(SystemExit) as caught,
        joined(True, None, None, None, lambda error: f"{error} (--{error.option})"),
    ):
        raise UserError("seed is -1: choose 0 or more", "seed")
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: seed is -1: choose 0 or more (--seed)\n"
