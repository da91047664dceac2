"""Draft trees: which nodes to try. Knows tokens, scores and prices in tokens; no layer, no cache, no seconds."""
