"""The learned score of tree nodes: its rows, its fit, its growth by price, and how it is judged."""
