"""Training prompts from free sources that the user has. Knows no model and no tokenizer."""
