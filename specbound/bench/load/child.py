"""`python -m specbound.bench.load.child MODULE ARGUMENTS`: runs a module until whoever started it has gone.

Standard input is the sign: it ends when the other process ends, in whatever way, so that no server is left behind.
"""

import os
import runpy
import sys
import threading


def end_with_input() -> None:
    """Ends this process, all its threads with it, once standard input is closed."""
    while os.read(0, 4096):  # not sys.stdin, whose lock the interpreter wants when it ends
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
