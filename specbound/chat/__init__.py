"""A conversation in the terminal: turns, streams, who wrote which token. Knows no command line."""
