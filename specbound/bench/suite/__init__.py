"""One table over compression levels and ways of choosing tokens, prompt by prompt, so that a killed run can go on."""
