"""Standard input and output that lose no text: any encoding, closed, or read by nobody. Knows no command."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping

from specbound_controller.errors import InputError
from specbound_controller.text_files import decoded, is_unicode

PLAIN: Mapping[str, str] = {"–": "-", "—": "-", "·": "-", "±": "+-", "≈": "~", "×": "x", "…": "...", "━": "-"}
"""What our own lines are written with where an encoding lacks the character; all others as escapes."""
ERRORS = "specbound.readable"


def prepare_streams() -> None:
    """Once for each process: what an encoding lacks is written in another way, and what was closed goes elsewhere.

    Where standard output was closed its text goes to standard error, and where that was closed too, nowhere.
    """
    for number in (0, 1, 2):  # otherwise the next file that is opened takes the place of a closed one
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (for as long as the process lives)
    if sys.stdout is None:
        sys.stdout = sys.stderr
    codecs.register_error(ERRORS, _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def _readable(error: UnicodeError) -> tuple[str, int]:
    """Handler of `codecs`: signs of our own in plain ones, bytes of file names as they were, all else as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in text), error.end


def flush() -> None:
    """Writes out what is kept back, now that errors can still be told.

    Raises:
        BrokenPipeError: the reader went away.
        OSError: it cannot be written, such as on a full disk.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise OSError(f"standard output cannot be written: {error.strerror}") from error


def drop_output() -> None:
    """Nobody reads standard output any more: the interpreter's own last flush must not fail on it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(line: str) -> None:
    """One line on standard error; where nobody reads that, the work goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def input_text() -> str:
    """All of standard input: by its byte order mark, as UTF-8 or UTF-16, else in the terminal's encoding.

    Raises:
        InputError: it is closed, or no text.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed, but the text was to come from there")
    if not isinstance(sys.stdin, io.TextIOWrapper):  # a program that calls us put something else there
        return unicode_text(sys.stdin.read(), "standard input")
    content = sys.stdin.buffer.read()
    encoding = codecs.lookup(sys.stdin.encoding).name
    is_marked = content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if encoding in ("utf-8", "ascii") or is_marked:
        return decoded(content, "standard input")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"standard input must be {encoding} text: {error.reason}") from None


def input_lines() -> Iterator[str]:
    """Lines of standard input as they come, without blanks at their ends; blank ones are left out.

    Raises:
        InputError: it is closed, or no text.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed, but the messages were to come from there")
    lines = iter(sys.stdin)
    while True:
        try:
            line = next(lines, None)
        except UnicodeDecodeError as error:
            raise InputError(f"standard input must be {error.encoding} text: {error.reason}") from None
        if line is None:
            return
        text = unicode_text(line, "standard input").removeprefix("\ufeff").rstrip()
        if text:
            yield text


def typed_lines(prompt: str = "> ") -> Iterator[str]:
    """Lines that somebody types, blank ones left out, until Ctrl-D. Ctrl-C at the prompt drops the line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (`input` edits with it)
    while True:
        try:
            line = input(prompt if sys.stdout.isatty() else "")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            tell("")
            continue
        except UnicodeDecodeError as error:
            tell(f"a line must be {error.encoding} text: {error.reason}")
            continue
        if line.strip():
            yield unicode_text(line, "the line")


def unicode_text(text: str, what: str) -> str:
    """The same text, UTF-8 that was not taken for it included. Raises InputError for what is no text at all."""
    if is_unicode(text):
        return text
    with contextlib.suppress(UnicodeError):
        return os.fsencode(text).decode("utf-8")  # an argument where the terminal's encoding is ASCII
    bad = next(each for each in text if "\ud800" <= each <= "\udfff")
    raise InputError(f"{what} must be text in the terminal's encoding, got {bad!a}")
