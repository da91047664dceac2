"""Runs a model over prompts and writes the log. Judges no policy."""
