"""Servers under load, side by side: what `specbound bench-serve` measures."""
