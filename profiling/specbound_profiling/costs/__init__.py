"""Seconds of each kind of work on this machine: timed, fitted, checked. Knows no log."""
