"""What is asked of a log: replay, comparison with live decoding, studies, calibration. Records nothing."""
