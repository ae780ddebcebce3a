"""One subject in a process of its own, which `__main__` starts with the allocator's settings in its environment."""

import argparse
import json

from . import machine
from .subjects import SUBJECTS
from .timing import Run


def main() -> None:
    """Measure one subject and write its tables to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("result")
    parser.add_argument("--allocator", choices=machine.ALLOCATORS, default="as it comes")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    subject = SUBJECTS[options.subject]
    machine.hold_threads()
    if subject.devices:
        from jlstm.devices import use_cpu_cores

        use_cpu_cores()
    tables = subject.measure(Run(options.quick, options.allocator))
    written = [{"name": t.name, "title": t.title, "text": t.text(), "records": t.records} for t in tables]
    with open(options.result, "w") as file:
        json.dump(written, file, default=float)


if __name__ == "__main__":
    main()
