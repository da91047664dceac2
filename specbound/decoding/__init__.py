"""The step and the loop: drafts, verification, what a request asks for. Knows no command, file format or training."""
