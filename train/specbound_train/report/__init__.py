"""The report of a training run: importance of the features, loss curves, chosen widths. Fits no controller."""
