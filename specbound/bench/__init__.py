"""The benchmark: our decoder beside every speculative method of transformers, in one process and on one clock."""
