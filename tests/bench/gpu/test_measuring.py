"""What stages are made of: pytest's report, the profiler's names, groups of equal bits, clocks."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from specbound.bench.gpu.clock import call_seconds, device_seconds, order_seconds
from specbound.bench.gpu.finding import Settings
from specbound.bench.gpu.profiled import GRAPHS, LAUNCHES, TO_DEVICE, TO_HOST, WAITS, Seen, watched
from specbound.bench.gpu.row_bits import runs_of_equal_bits, shown_runs
from specbound.bench.gpu.suite import files_with_gpu_tests, read_junit
from specbound.decoding.model.row_blocks import MatrixProduct

CPU = torch.device("cpu")
SKIPPED = '<testcase classname="t" name="c" time="0"><skipped message="needs a GPU"/></testcase>'


@pytest.mark.parametrize(
    ("cases", "numbers", "failure"),
    [
        ('<testcase classname="t" name="a" time="2"/>' + SKIPPED, (1, 0, 1), None),
        ('<testcase classname="t" name="b" time="1"><failure message="m">Trace back</failure></testcase>',
         (0, 1, 0), "t::b\nTrace back"),
        ('<testcase classname="t" name="b" time="1"><error message="m">Trace back</error></testcase>',
         (0, 1, 0), "t::b\nTrace back"),
        (SKIPPED, (0, 0, 1), "no test ran: t::c: needs a GPU"),
    ],
)  # fmt: skip
def test_every_failure_of_pytest_is_kept_and_a_run_of_nothing_is_one(
    cases: str, numbers: tuple[int, ...], failure: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    finding = read_junit(path, Settings(tmp_path))
    assert tuple(finding.tables[0].rows[0][:3]) == numbers and finding.failure == failure


def test_files_with_tests_for_a_gpu_are_found() -> None:
    assert (
        "tests/decoding/test_gpu.py" in files_with_gpu_tests()
        and "tests/decoding/model/test_segments.py" in files_with_gpu_tests()
    )
    assert "tests/decoding/test_noise.py" not in files_with_gpu_tests()


def test_names_of_the_profiler_are_counted_by_kind() -> None:
    names = {"cudaStreamSynchronize": 3, "cudaLaunchKernel_v7000": 4, "cudaLaunchKernel": 5, "cudaMemcpyAsync": 9}
    names |= {"Memcpy DtoH (Device -> Pageable)": 2, "Memcpy HtoD (Pinned -> Device)": 1, "cudaGraphLaunch_v10000": 1}
    seen = Seen(Counter(names))
    assert (seen.calls(WAITS), seen.calls(LAUNCHES), seen.calls(GRAPHS)) == (3, 9, 1)
    assert (seen.copies(TO_HOST), seen.copies(TO_DEVICE)) == (2, 1)


def test_the_profiler_sees_what_a_call_does() -> None:
    once, thrice = (
        watched(lambda: [torch.ones(3).sum() for _ in range(count)], CPU).names["aten::sum"]  # noqa: B023
        for count in (1, 3)
    )
    assert thrice == 3 * once > 0


def test_row_counts_with_equal_bits_stand_together() -> None:
    product = MatrixProduct(64, 96, torch.float64, CPU, False, False, 1)
    runs = runs_of_equal_bits(product, (1, 2, 3))
    assert sorted(abs(count) for run in runs for count in run) == [1, 2, 3]
    assert shown_runs([[1], [2, 8], [-64]]) == "1 | 2 8 | place matters at 64"


def test_clocks_tell_a_long_call_from_a_short_one() -> None:
    small, large = torch.randn(8, 8), torch.randn(512, 512)
    calls = {"small": lambda: small @ small, "large": lambda: large @ large}
    seconds = call_seconds(calls, CPU, 5)
    assert seconds["large"] > seconds["small"] > 0.0
    assert device_seconds(calls["large"], CPU, 3) > 0.0 and order_seconds(calls["large"], CPU, 3) > 0.0
