"""What a model brings to draft trees: its bigrams and its own text, made, kept and found again. Decodes nothing."""
