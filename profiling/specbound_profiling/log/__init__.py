"""The step log on disk and in memory. Knows no model."""
