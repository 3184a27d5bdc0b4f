"""What a program that is started as a process of its own takes."""

import os

import numpy as np
import pytest

from diffjax.errors import UserError
from experiments.measurements import children


@pytest.mark.skipif(not children.peak_of(os.getpid()), reason="needs /proc, which Linux has")
def test_the_peak_is_the_child_s_and_not_the_parent_s():
    held = np.ones(300_000_000, np.uint8)
    ended = children.run("this")
    assert 0 < ended.peak_bytes < held.nbytes
    assert 0 < ended.seconds < 60


def test_what_a_program_said_last_is_told():
    with pytest.raises(UserError, match=r"no_such_module ended: .*No module named"):
        children.run("no_such_module")
