"""Profiling: what the exits of a model would have drafted, what work costs, what any policy would have done."""
