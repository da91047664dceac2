"""Training: controllers from step logs, and the demonstration model."""
