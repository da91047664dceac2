"""Which model and controller a name means, and whether two are the same. Decodes nothing."""
