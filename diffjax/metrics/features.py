"""What every statistic of features asks of them."""

import numpy as np
from jaxtyping import Float


def checked(features: Float[np.ndarray, "N D"], *, least: int) -> Float[np.ndarray, "N D"]:
    """In float64. Raises ValueError for fewer than `least` rows and what is not finite."""
    if len(features) < least:
        raise ValueError(f"{len(features)} rows of features, where at least {least} are needed")
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite have no statistics")
    return features.astype(np.float64)
