"""The whole chain on one model. Knows no command line."""
