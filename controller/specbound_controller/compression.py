"""The names of the compression levels. Imports nothing, so that the command line can list them at once."""

COMPRESSIONS = ("none", "bf16", "fp16", "int8", "nf4")
"""How the weights are held: fp32, bf16, fp16, and 8 or 4 bits through bitsandbytes. Each has a one-hot feature."""
