"""What every command sets once, at the edge of the process: how much the libraries below say."""

import logging
import warnings


def quieten_libraries() -> None:
    """Leaves standard error to our own lines: no progress bars and no advice of transformers.

    The number of threads is PyTorch's own affair: it follows OMP_NUM_THREADS.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="specbound: %(message)s")
