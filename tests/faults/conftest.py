"""How often the faults are tried."""

import os

import pytest


@pytest.fixture
def kills():
    """Kills a run: DIFFJAX_KILLS, 20 unless set."""
    return int(os.environ.get("DIFFJAX_KILLS", "20"))
