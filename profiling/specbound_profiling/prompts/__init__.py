"""Prompts: where they come from, their tokens, where their continuations loop. Knows no log."""
