"""Specs build what they name, run no code, and say what they would have taken."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffjax.data
import diffjax.models
import diffjax.samplers
import diffjax.schedules
from diffjax import spec
from diffjax.errors import UserError
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.linear import Linear

PACKAGES = [diffjax.data, diffjax.models, diffjax.samplers, diffjax.schedules]


def test_builds_with_and_without_options():
    assert spec.build("ddim", diffjax.samplers) == DDIM()
    assert spec.build(" ddim( eta = 0.25 ) ", diffjax.samplers) == DDIM(eta=0.25)


def test_defaults_fill_only_what_is_not_given():
    defaults = {"steps": 7, "nothing_of_linears": 1}
    assert spec.build("linear", diffjax.schedules, defaults).steps == 7
    assert spec.build("linear(steps=9)", diffjax.schedules, defaults).steps == 9


def test_lists_become_tuples_so_that_specs_hash():
    model = spec.build("unet(block_out_channels=[32, 64, 64, 64])", diffjax.models)
    assert model.block_out_channels == (32, 64, 64, 64)
    hash(model)


@given(st.integers(1, 5000), st.floats(1e-6, 0.5), st.floats(0.5, 0.999))
def test_render_is_read_back(steps, start, end):
    schedule = Linear(steps, start, end)
    assert spec.build(spec.render(schedule), diffjax.schedules) == schedule


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_every_name_is_found_by_itself(package):
    names = spec.names(package)
    assert names
    for name in names:
        with pytest.raises(UserError, match=f"did you mean '{name}'"):
            spec.build(name + "x", package)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"),
        ("ddim(", "write name or name"),
        ("ddim(0.5)", "give every option by name"),
        ("ddim(**{})", "give every option by name"),
        ("ddim(eta=1)(2)", "write name or name"),
        ("ddim(etta=1)", r"no option 'etta' \(did you mean 'eta'\?\); its options: eta"),
        ("ddim(eta='a')", "eta is a float"),
        ("ddim(eta=1e999)", "eta is a finite float"),
        ("ddim(eta=True)", "eta"),
        ("base", "no 'base' in samplers"),
        ("os.system", "write name or name"),
        ("(" * 300, "write name or name"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.samplers)


def test_linens_own_fields_are_no_options():
    model = spec.build("unet(dropout=0.5)", diffjax.models)
    assert spec.render(model) == "unet(dropout=0.5)"
    with pytest.raises(UserError, match="no option 'name'"):
        spec.build("unet(name='x')", diffjax.models)


def test_missing_option():
    with pytest.raises(UserError, match=r"folder needs path: write folder\(path="):
        spec.build("folder", diffjax.data)


def test_no_code_is_run(tmp_path: pathlib.Path):
    mark = tmp_path / "ran"
    for code in (
        f"ddim(eta=open({str(mark)!r}, 'w').write('x'))",
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"ddim(eta=[c for c in [open({str(mark)!r}, 'w')]])",
    ):
        with pytest.raises(UserError):
            spec.build(code, diffjax.samplers)
    assert not mark.exists()
