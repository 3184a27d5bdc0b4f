"""The keys of samples, which hold the promise that a batch size changes no image."""

import jax
import pytest

from diffjax.errors import UserError
from diffjax.randomness import sample_keys


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_a_generator_that_depends_on_the_batch_is_refused(impl):
    with pytest.raises(UserError, match=rf"numbers of {impl} depend on the batch size"):
        sample_keys(jax.random.key(0, impl=impl), 0, 2)
