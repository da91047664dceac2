"""One text continued, or one conversation, with a controller or plainly. Knows no command line."""
