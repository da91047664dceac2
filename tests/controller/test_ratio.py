"""Division of counts."""

import math

import numpy as np

from specbound_controller.ratio import ratio


def test_quotient_is_a_plain_float_and_nan_where_nothing_was_counted() -> None:
    assert ratio(3, 8) == 0.375 and ratio(0, 5) == 0.0
    assert type(ratio(np.int64(1), np.int64(4))) is float
    assert math.isnan(ratio(0, 0)) and math.isnan(ratio(np.float64(2.0), np.float64(0.0)))
