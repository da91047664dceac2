"""How far scores foretell acceptance: measures of fit, and what a log and its live steps say. Knows no network."""
