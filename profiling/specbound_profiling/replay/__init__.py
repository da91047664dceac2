"""What policies would have done on a log, and the best that any could. Runs no model."""
