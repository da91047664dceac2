"""Trained exits: the files of a set, where it comes from, and which model it belongs to."""
