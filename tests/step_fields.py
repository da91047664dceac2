"""The fields of a step record that two runs of one step must share exactly, whatever the rounding of their scores."""

EXACT_FIELDS = (
    "context_length",
    "num_drafted",
    "num_accepted",
    "num_emitted",
    "exit_layers",
    "stop_reason",
    "layer_calls_by_rows",
    "head_reads_by_rows",
    "num_exit_tests",
    "num_learned_scores",
)
