"""One subject in a process of its own, which `__main__` starts with the allocator's settings in its environment."""

import argparse
import json

from . import machine
from .subjects import SUBJECTS
from .timing import Run


def main() -> None:
    """Measure one subject, print its tables as they come, and have all that there are in a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("result")
    parser.add_argument("--allocator", choices=machine.ALLOCATORS, default="as it comes")
    parser.add_argument("--quick", action="store_true")
    for name in ("minutes", "after", "pace"):
        parser.add_argument(f"--{name}", type=float, default=1.0)
    options = parser.parse_args()
    subject = SUBJECTS[options.subject]
    machine.hold_threads()
    if subject.devices:
        from jlstm.devices import use_cpu_cores

        use_cpu_cores()
    written = []
    for table in subject.measure(Run(options.quick, options.allocator, options.minutes, options.after, options.pace)):
        text = table.text()
        print(text, end="\n\n", flush=True)
        written.append({"name": table.name, "title": table.title, "text": text, "records": table.records})
        with open(options.result, "w") as file:
            json.dump(written, file, default=float)


if __name__ == "__main__":
    main()
