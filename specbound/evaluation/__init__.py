"""Methods side by side by the clock, and whether their outputs are equal. Knows no command line."""
