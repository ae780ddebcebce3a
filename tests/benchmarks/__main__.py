"""Measure jlstm next to torch, Flax, Equinox and Keras, and print one table for each subject.

Every subject is measured in a process of its own; ratios are what counts. Peers that are not installed are left out:
pip install -e '.[bench]'.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

from . import machine, plot
from .subjects import QUICK_PART, SUBJECTS
from .tables import WIDTH


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; a missed target is printed, a disagreement or a crash ends with an error."""
    subjects = "\n".join(f"  {name:<16}{subject.about}" for name, subject in SUBJECTS.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description=__doc__,
        epilog=f"subjects:\n{subjects}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SUBJECTS,
        metavar="SUBJECT",
        default=[name for name, subject in SUBJECTS.items() if subject.usual],
        help="measure these subjects",
    )
    parser.add_argument("--quick", action="store_true", help="one shape, fewer sizes, rounds and tasks: for a look")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything that was measured")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the ratios and the growth (extra: plot)")
    options = parser.parse_args(arguments)
    for path in (options.json, options.plot):
        if path and not path.parent.is_dir():
            parser.error(f"there is no folder {path.parent}")
    if options.plot:
        plot.pyplot()  # to fail now rather than after an hour

    began = time.perf_counter()
    settings = machine.settings()
    print(_shown(settings), end="\n\n", flush=True)
    results: list[dict[str, Any]] = []
    jobs = [
        (name, allocator, minutes * (QUICK_PART if options.quick else 1))
        for name, subject in SUBJECTS.items()
        if name in options.only
        for allocator, minutes in zip(subject.allocators, subject.minutes, strict=True)
    ]
    done = 0.0
    for k, (name, allocator, minutes) in enumerate(jobs):
        print(f"{name}, allocator {allocator}:", file=sys.stderr, flush=True)
        pace = (time.perf_counter() - began) / 60 / done if done else 1.0
        times = {"minutes": minutes, "after": sum(job[2] for job in jobs[k + 1 :]), "pace": pace}
        tables, failed = _measured(name, allocator, options.quick, times)
        done += minutes
        results.append({"subject": name, "allocator": allocator, "tables": tables})
        if options.json:  # after each, so that an interrupted run keeps what it has
            options.json.write_text(json.dumps({"settings": settings, "quick": options.quick, "results": results}))
        if failed:
            raise SystemExit(f"{name}: failed, see above")
    if options.plot:
        plot.draw(results, str(options.plot))
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes", file=sys.stderr)
    return 0


def _measured(name: str, allocator: str, quick: bool, times: dict[str, float]) -> tuple[list[dict[str, Any]], bool]:
    """Start this benchmark again, for one subject, with the allocator's settings in the environment.

    Returns the tables, which it has printed, and whether it failed before it had them all.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, "-m", f"{__package__}.worker", name, str(result), "--allocator", allocator]
        command += ["--quick"] * quick + [f"--{key}={value}" for key, value in times.items()]
        try:
            failed = subprocess.run(command, env=machine.environment(allocator), check=False).returncode != 0
        except KeyboardInterrupt:
            failed = True
        return json.loads(result.read_text()) if result.exists() else [], failed


def _shown(settings: dict[str, Any]) -> str:
    raised = " ".join(f"{name}={value}" for name, value in settings["allocators"]["threshold raised"].items())
    devices = f"{settings['devices']} on CPU for jlstm to split a batch over; one for the peers and for learning"
    lines = {
        "machine": f"{settings['processor']}; {settings['libc']}; python {settings['python']}",
        "versions": ", ".join(f"{name} {version}" for name, version in settings["versions"].items()),
        "threads": f"{settings['threads']}, for everybody, on as many cores",
        "JAX devices": f"{devices}, unless a column says sharded",
        "allocator": f"as it comes; or threshold raised, which is {raised}",
    }
    indent = max(map(len, lines)) + 2
    return "\n".join(
        textwrap.fill(f"{name:<{indent}}{text}", WIDTH, subsequent_indent=" " * indent) for name, text in lines.items()
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the worker ends, too, and its tables are kept
    sys.exit(main())
