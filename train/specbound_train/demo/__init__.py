"""The demonstration model: its texts, its training and its model card. Knows nothing of decoding policies."""
