"""What every command sets once, at the edge of the process: CPU threads, and how much the libraries below say."""

import logging
import warnings


def set_up(threads: int | None = None) -> None:
    """Leaves standard error to our own lines: no progress bars and no advice of transformers.

    threads: CPU threads of PyTorch; None leaves its own choice. Cost tables and speeds hold for one number of them.
    """
    import torch
    import transformers

    if threads is not None:
        torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="specbound: %(message)s")
