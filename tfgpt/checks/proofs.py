"""The proofs of the notebooks: two results are equal, and by how much they differ."""

import numpy as np


def prove_equal(what, result, expected, tolerance=1e-5):
    """Print the largest difference of two results; raise if they are not equal.

    Args:
        what: str, what is proved: it begins the printed line.
        result: tensor or array of any shape.
        expected: tensor or array of the same shape, or one number for all places.
        tolerance: float >= 0, allowed absolutely and relative to `expected`.

    Raises:
        AssertionError: if the shapes differ, or a place by more than the tolerance.

    Example:
        >>> prove_equal("the weights sum to 1", [0.25, 0.75], [0.25, 0.75])
        the weights sum to 1: equal in every bit
        >>> prove_equal("loop and matrix", [1.0, 2.0], [1.0, 2.000001])
        loop and matrix: largest difference 1.0e-06
    """
    result, expected = np.asarray(result), np.asarray(expected)
    if expected.ndim and result.shape != expected.shape:
        raise AssertionError(f"{what}: shapes {result.shape} and {expected.shape} differ.")
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance, err_msg=what)
    difference = np.abs(result.astype("float64") - expected.astype("float64")).max(initial=0)
    print(
        f"{what}:", f"largest difference {difference:.1e}" if difference else "equal in every bit"
    )
