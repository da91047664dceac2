"""Cost tables: measured here, checked against live decoding, kept for each user. Chooses no draft."""
