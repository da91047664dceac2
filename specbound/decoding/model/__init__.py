"""Running a transformers model layer by layer: caches, heads, kernels. Knows no draft and no policy."""
