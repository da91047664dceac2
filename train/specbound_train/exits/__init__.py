"""Training of exits for a frozen model: what they read, what they learn from, what they reach."""
