"""The order of devices, which is the same for data, parameters and programs."""

import random
from unittest import mock

import jax
from programs import python

from diffjax.devices import ordered

SCRIPT = """
import jax
from diffjax import generate
from diffjax.training import parallel
devices, pmap = jax.devices(), jax.pmap
shuffled = [devices[i] for i in (2, 0, 3, 1)]
jax.devices = jax.local_devices = lambda: shuffled
jax.pmap = lambda *args, devices, **options: print([d.id for d in devices])
parallel.Pmap().compile(None)
for mesh in (parallel._mesh(), generate._mesh(4)):
    print([d.id for d in mesh.devices])
"""


def fake(number, process):
    return mock.Mock(spec=jax.Device, id=number, process_index=process)


def test_by_process_and_then_by_id():
    """A process's ids need not follow each other."""
    wanted = [fake(*at) for at in ((0, 0), (5, 0), (1, 1), (4, 1), (2, 10), (3, 10))]
    shuffled = list(wanted)
    random.Random(0).shuffle(shuffled)
    assert shuffled != wanted
    assert ordered(shuffled) == wanted
    assert ordered(iter(shuffled)) == wanted


def test_all_devices_by_default(monkeypatch):
    fakes = [fake(1, 1), fake(2, 0), fake(0, 1)]
    monkeypatch.setattr(jax, "devices", lambda: fakes)
    assert ordered() == [fakes[1], fakes[2], fakes[0]]


def test_training_and_sampling_use_this_order():
    done = python(SCRIPT, devices=4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[0, 1, 2, 3]"] * 3
