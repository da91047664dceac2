"""One text continued, with a controller or plainly. Knows no command line."""
