"""One command for one's own model: every stage on one folder, within a time, to an answer in words.

Hands files from one stage to the next, as a knowledgeable user would; knows nothing of what a stage does inside.
"""
