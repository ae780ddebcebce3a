"""Shakespeare over several processes, which learn one model together, each from its own rows of every batch.

distributed.py TEXT --processes 2
    starts them all on this machine, to try it out: one process that calls use_cpu_cores() is faster there

distributed.py TEXT --coordinator 192.168.0.1:1234 --processes 2 --process 0
    is one of them, and so on each machine, with its own number; the address is that of process 0

distributed.py TEXT
    is one of those that Slurm or Kubernetes started, which tell it the rest

Each machine has the text, and they show one progress and leave one model, those of process 0. However it ends, the
same command, or that for another number of processes, goes on from the checkpoint.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from jlstm import CharLM, use_cpu_cores, use_distributed
from jlstm.processes import is_first

HELD_OUT = 0.1
LOST_SECONDS = 30  # for those that are left to find out that one is lost, and to end by themselves
LAST_SECONDS = 300  # for all to end that were told to


def train(text: str, options: argparse.Namespace) -> float | None:
    """Train as one of several processes; the first returns the loss on the text held out."""
    use_cpu_cores(options.cores)
    use_distributed(options.coordinator, options.processes, options.process)
    first = int(len(text) * (1 - HELD_OUT))
    settings = {"hidden_size": options.hidden, "epochs": options.epochs, "streams": options.streams}
    model = CharLM.train(
        text[:first], validation=text[first:], checkpoint=options.checkpoint, check_every=2, **settings
    )
    if not is_first():
        return None
    model.save(options.model)
    loss = model.evaluate(text[first:])
    print(f"{model.generate(text[first : first + 100], 500, temperature=0.8)}\n")
    print(f"validation: {loss.nats:.4f} nats a character; the model is in {options.model}")
    return loss.nats


def launch(arguments: list[str], options: argparse.Namespace) -> int:
    """Start all processes on this machine, wait until they ended, and return the status to end with."""
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: came.append(number))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"  # a port that is free
    command = [sys.executable, __file__, "--cores", "1", *arguments, "--coordinator", address, "--process"]
    processes: list[subprocess.Popen] = []
    try:
        for k in range(options.processes):
            processes.append(subprocess.Popen([*command, str(k)]))
        while not came and all_well(processes):
            time.sleep(0.1)
        for k, process in enumerate(processes):
            if process.returncode and not came:
                say(f"process {k} {ending(process.returncode)}; the others find out, and end too")
            if signal.SIGTERM in came:
                process.terminate()  # the terminal tells Ctrl-C to all of them itself
        wait(processes, LAST_SECONDS if came else LOST_SECONDS)
    finally:
        for process in processes:
            process.kill()  # whatever is left
            process.wait()
    if not came and not any(process.returncode for process in processes):
        return 0
    if any(options.checkpoint.glob("training-*.npz")):
        say(f"the training is safe in {options.checkpoint}; the same command goes on from there")
    else:
        say(f"nothing is in {options.checkpoint} yet; the same command starts from the beginning")
    return 128 + came[0] if came else 1


def all_well(processes: list[subprocess.Popen]) -> bool:
    """Whether some are at work, and none ended badly."""
    statuses = [process.poll() for process in processes]
    return None in statuses and not any(statuses)


def wait(processes: list[subprocess.Popen], seconds: float) -> None:
    """Wait until all ended, for so long at the most."""
    last = time.monotonic() + seconds
    while time.monotonic() < last and any(process.poll() is None for process in processes):
        time.sleep(0.1)


def ending(status: int) -> str:
    if status > 0:
        return f"ended with status {status}"
    return f"was ended by signal {-status} ({signal.Signals(-status).name})"


def say(message: str) -> None:
    print(f"distributed.py: {message}", file=sys.stderr, flush=True)


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} can not be read as a text: {getattr(error, 'strerror', None) or error}.") from None


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> float | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a text file, of which the last tenth is held out")
    parser.add_argument("--processes", type=natural, metavar="N", help="how many processes train together")
    parser.add_argument("--process", type=natural, metavar="K", help="which of them this is, from 0")
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a port that is free there"
    )
    parser.add_argument(
        "--cores", type=natural, metavar="N", help="cores a process (all; 1 where all are on this machine)"
    )
    parser.add_argument("--model", type=Path, default=Path("model.npz"), help="where to keep the model (model.npz)")
    parser.add_argument("--checkpoint", type=Path, default=Path("training"), help="the folder to go on from (training)")
    parser.add_argument("--hidden", type=natural, default=384, metavar="N", help="see CharLM.train (384)")
    parser.add_argument("--epochs", type=natural, default=20, metavar="N", help="see CharLM.train (20)")
    parser.add_argument("--streams", type=natural, default=32, metavar="N", help="see CharLM.train (32)")
    options = parser.parse_args(arguments)
    text = read(options.text)
    if not options.model.absolute().parent.is_dir():
        raise SystemExit(f"There is no folder {options.model.parent} to write the model into.")
    if options.processes and options.process is None and options.coordinator is None:
        raise SystemExit(launch(sys.argv[1:] if arguments is None else arguments, options))
    try:
        return train(text, options)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"distributed.py: {error}") from None


if __name__ == "__main__":
    main()
