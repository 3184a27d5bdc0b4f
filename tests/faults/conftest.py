"""How often the faults are tried: more by the environment."""

import os

import pytest


@pytest.fixture
def kills():
    """Kills a run: DIFFJAX_KILLS, 20 unless set."""
    return int(os.environ.get("DIFFJAX_KILLS", "20"))


@pytest.fixture
def damages():
    """Files damaged: DIFFJAX_DAMAGES, 60 unless set."""
    return int(os.environ.get("DIFFJAX_DAMAGES", "60"))


@pytest.fixture
def fillings():
    """Disks filled: DIFFJAX_FILLINGS, 8 unless set."""
    return int(os.environ.get("DIFFJAX_FILLINGS", "8"))
