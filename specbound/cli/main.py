"""The entry point: finds the command, runs it, and turns every error into one line and an exit code.

Knows no model and no config; a command's module is imported when the command runs, so that `--help` loads no torch.
"""

import contextlib
import errno
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from specbound import __version__
from specbound.cli.streams import drop_output, flush, prepare_streams, tell
from specbound_controller.errors import InputError, MissingExtraError

COMMANDS = {
    "fit": ("specbound.cli.fit:run", "find what decodes a model of yours fastest here, and say how much faster"),
    "prompts": ("specbound.cli.prompts:run", "make training prompts of many kinds from free texts"),
    "profile": ("specbound.cli.profile:run", "record how every exit layer agrees with the full model"),
    "train-controller": ("specbound.cli.train_controller:run", "fit a controller on a log that profile wrote"),
    "train-exits": ("specbound.cli.train_exits:run", "train exits for a frozen model, on text of its own"),
    "tune": ("specbound.cli.tune:run", "choose the constants of the baselines' policies on a log that profile wrote"),
    "costs": ("specbound.cli.costs:run", "measure what the decoder's work costs on this machine, and check it"),
    "replay": ("specbound.cli.replay:run", "say what policies would have done on a log, and the best that any could"),
    "report": ("specbound.cli.report:run", "show how far every exit layer can be trusted: plots and one page"),
    "sensitivity": ("specbound.cli.studies:sensitivity", "show by replay how much each setting of SpecBound matters"),
    "ablation": ("specbound.cli.studies:ablation", "show by replay what each of SpecBound's parts is worth"),
    "generate": ("specbound.cli.generate:run", "continue a text, faster, with the same output"),
    "chat": ("specbound.cli.chat:run", "talk with a model in the terminal, faster, with the same answers"),
    "serve": ("specbound.cli.serve:run", "serve a model with OpenAI's API, faster, with the same output"),
    "export-generate": (
        "specbound.cli.export_generate:run",
        "write a folder with which transformers' own generate decodes with specbound",
    ),
    "convert": ("specbound.cli.convert:run", "write a GGUF file's model as an ordinary checkpoint, which loads faster"),
    "write": ("specbound.cli.write:run", "let a model write text of its own, and count what it tends to write"),
    "verify": ("specbound.cli.verify:run", "check that outputs equal plain decoding's, token by token"),
    "evaluate": ("specbound.cli.evaluate:run", "measure what a controller is worth, against every other policy"),
    "bench": ("specbound.cli.bench:run", "time every method side by side, transformers' own included; shapes; scaling"),
    "bench-serve": (
        "specbound.cli.bench_serve:run",
        "time servers under load side by side, transformers' own included; goes on after a kill",
    ),
    "results": (
        "specbound.cli.results:run",
        "one table over compression levels, greedy and sampled; goes on after a kill",
    ),
    "demo": ("specbound.cli.demo:run", "the whole chain on the demonstration model, with one table at the end"),
}
"""Command -> (function that takes the rest of the command line, help)."""

EXTRA_OF_MODULE = {
    "datasets": "profile",
    "pyarrow": "profile",
    "scipy": "profile",
    "matplotlib": "report",
    "lightning": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "wandb": "train",
    "bitsandbytes": "quant",
    "ray": "ray",
    "fastapi": "serve",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "uvicorn": "serve",
}
"""Optional package -> the extra that brings it."""

BAD_PATHS = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP),
        *(errno.EACCES, errno.EPERM, errno.EROFS),
    }
)
"""What is wrong with a path that a user gave, where no command found out before."""

EXIT_OK, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `specbound <command> ...` and returns the exit code: 0, 1 (failure), 2 (bad input), 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    prepare_streams()
    try:
        code = _dispatch(arguments)
        flush()
        return code
    except KeyboardInterrupt:
        if is_debug:
            raise
        return _report("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        drop_output()  # its reader went away, as head does
        return EXIT_OK
    except Exception as error:
        if is_debug:
            raise
        return _report_error(error)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return EXIT_OK
    if arguments[0] == "--version":
        print(f"specbound {__version__}")
        return EXIT_OK
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        from specbound.cli.parsing import nearest

        raise InputError(f"unknown command {name!r}{nearest(name, COMMANDS)}; see specbound --help")
    module, function = COMMANDS[name][0].split(":")
    run: Callable[[Sequence[str]], int | None] = getattr(import_module(module), function)
    return run(rest) or EXIT_OK


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: specbound <command> [options]",
            "",
            "Profiles how a language model's shallow layers agree with its last one, trains a controller on that,",
            "and decodes faster with it: the output is the same as plain decoding's.",
            "",
            "commands:",
            *lines,
            "",
            "options of every command:",
            "  --help         its options and their defaults",
            "  --config FILE  YAML with the same names; options on the command line win",
            "  --debug        a traceback instead of the one-line error",
            "",
            "specbound --version prints the version.",
        ]
    )


def _report_error(error: Exception) -> int:
    if isinstance(error, InputError):
        return _report(str(error), EXIT_BAD_INPUT)
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRA_OF_MODULE.get((error.name or "").split(".")[0])
        if extra is not None:
            return _report(str(MissingExtraError(f"the package {error.name}", extra)), EXIT_BAD_INPUT)
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        exit_code = EXIT_BAD_INPUT if where and error.errno in BAD_PATHS else EXIT_FAILURE
        return _report(f"{where}{error.strerror or error} (--debug shows the traceback)", exit_code)
    return _report(f"{type(error).__name__}: {error} (--debug shows the traceback)", EXIT_FAILURE)


def _report(message: str, exit_code: int) -> int:
    with contextlib.suppress(OSError):
        flush()
    tell(f"specbound: error: {' '.join(message.split())}")
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
