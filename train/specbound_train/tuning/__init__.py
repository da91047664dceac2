"""Constants of the literature's rules, chosen on a log. Fits no controller."""
