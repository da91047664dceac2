"""One line for all that goes on, with the time left, also where standard error is no terminal."""

import time

import pytest

from specbound_profiling import progress
from specbound_profiling.progress import RecordingBar, Work, duration, status, warn_of_long_work, working


def test_line_says_how_much_is_done_and_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    work = Work("recording", total=10)
    assert work.text(work.left_s()) == "recording, 0%"
    clock[0] += 30
    work.advance(2)
    assert work.text(work.left_s()) == "recording, 20%, about 2 min left"
    work.note = "found nothing"
    work.left_s = lambda: 40.0
    assert work.text(work.left_s()) == "recording, 20%, about 40 s left, found nothing"


def test_parts_stand_behind_what_they_are_parts_of() -> None:
    with working("fit") as whole, status("measuring"):
        whole.note = "so far: 1.3x"
        assert progress._display.line() == "fit, so far: 1.3x · measuring"
    assert progress._display.works == []


def test_one_time_is_said_to_be_left_that_of_the_whole_where_it_is_known() -> None:
    with working("fit") as whole, working("timing", 4) as part:
        part.left_s = lambda: 50.0
        assert progress._display.line() == "fit · timing, 0%, about 50 s left"
        whole.left_s = lambda: 80.0
        assert progress._display.line() == "fit, about 80 s left · timing, 0%"


def test_piped_work_speaks_while_it_goes_on_and_is_silent_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    with working("decoding", total=2) as work:
        work.advance()
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and all(line.startswith("decoding, 50%") for line in lines)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_an_error_ends_the_display() -> None:
    with pytest.raises(ZeroDivisionError), working("fit"), RecordingBar("none", 2, 8) as bar:
        bar.token(3)
        assert "0/2 prompts" in progress._display.line()
        raise ZeroDivisionError
    assert progress._display.works == []


def test_long_work_is_announced_with_what_shortens_it(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_long_work(599, "--num-prompts shortens it")
    assert capsys.readouterr().err == ""
    warn_of_long_work(10_800, "--num-prompts shortens it")
    assert capsys.readouterr().err == "this will take about 3.0 h; --num-prompts shortens it\n"
    with working("fit"), working("timing"):  # a part
        warn_of_long_work(10_800, "--num-prompts shortens it")
    assert capsys.readouterr().err == ""
    assert [duration(seconds) for seconds in (40, 100, 7200)] == ["40 s", "2 min", "2.0 h"]
