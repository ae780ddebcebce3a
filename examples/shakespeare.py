"""A character language model: learn a text, write on from it, and say how well it was learned.

shakespeare.py train                  half an hour on two cores; --quick takes 2 minutes, --best longer
shakespeare.py sample                 write with what was learned
shakespeare.py evaluate               the exact loss over the last tenth of the text, which was never trained on
shakespeare.py documented             the documented network, which reads each character as one number, to compare
"""

import argparse
import contextlib
import os
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

from jlstm import CharLM, LSTMNetwork, Windows, use_cpu_cores
from jlstm.language_model import encode

URL = "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"
MODEL, DOCUMENTED = Path("shakespeare.npz"), Path("documented.npz")
HELD_OUT = 0.1
WINDOW = 256  # what others evaluate on this text: windows of so many characters, each read without what came before
QUICK = {"hidden_size": 256, "dropout": 0.1, "epochs": 2, "streams": 16, "check_every": 1}
DEFAULT = {"check_every": 2}
BEST = {"hidden_size": 512, "dropout": 0.5, "epochs": 40, "check_every": 2}


def read_text(path: Path | None) -> str:
    """Read the text from a file, or Shakespeare's from the cache folder, where it is downloaded to once."""
    if path is None:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jlstm" / "shakespeare.txt"
        if not path.exists():
            print(f"Downloading {URL} to {path} (1.1 MB, once)")
            try:
                with urllib.request.urlopen(URL, timeout=30) as response:
                    content = response.read()
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = path.with_suffix(".part")
                unfinished.write_bytes(content)
                unfinished.replace(path)
            except (OSError, HTTPException) as error:
                raise SystemExit(f"The download failed ({error}). Give a text of your own with --text FILE.") from None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--text: expected a readable UTF-8 text file, got {path} ({error})") from None
    if "\0" in text:
        raise SystemExit(f"--text: expected a text, got {path}, a binary file (it has null characters)")
    if not text.strip():
        raise SystemExit(f"--text: expected a text, got {path}, which is empty")
    return text


def split(text: str) -> tuple[str, str]:
    """Return the first nine tenths of the text, to train on, and the rest, to validate on."""
    first = int(len(text) * (1 - HELD_OUT))
    return text[:first], text[first:]


def report(name: str, model: CharLM, validation: str) -> float:
    """Print how well a model guesses a text, and return the loss in nats a character."""
    loss = model.evaluate(validation)
    line = f"{name}: {loss.nats:.4f} nats, {loss.bits:.4f} bits a character, perplexity {loss.perplexity:.3f}"
    if len(validation) > WINDOW:
        line += f"; in windows of {WINDOW} from zeros {model.evaluate(validation, window=WINDOW).nats:.4f} nats"
    print(line)
    return loss.nats


def train(options: argparse.Namespace) -> float:
    began = time.perf_counter()
    text = read_text(options.text)
    training, validation = split(text)
    settings = QUICK if options.quick else BEST if options.best else DEFAULT
    if options.start:
        settings = {"start": load(options.start)} | {key: settings[key] for key in settings if key != "hidden_size"}
    given = {"hidden_size": options.hidden, "layers": options.layers, "dropout": options.dropout}
    given |= {"epochs": options.epochs, "streams": options.streams, "window": options.window}
    settings = settings | {name: value for name, value in given.items() if value is not None}
    if options.checkpoint is None or not options.checkpoint.exists():
        check_new(options.model)
    print(f"{len(text):,} characters, {len(set(text))} distinct ones: {len(training):,} to train, the rest to validate")
    if options.curve:
        try:
            draw([], options.curve)  # what is wrong with it should be said now and not in half an hour
        except (OSError, ValueError) as error:
            raise SystemExit(f"--curve: {error}") from None
    checks, prompt = [], "\n" if "\n" in text else text[0]

    def show(model, check):
        checks.append(check)
        print(
            f"{check.seconds:5.0f} s, epoch {check.epoch:g}: training {check.loss:.4f}, validation "
            f"{check.validation.nats:.4f} nats a character" + (", the best so far" if check.best else "")
        )
        if check.best:
            keep(model, options.model)
        print(f"    {model.generate(prompt, 120, temperature=0.8, seed=options.seed)!r}", flush=True)
        if options.curve:
            with contextlib.suppress(OSError):  # a full disk ends no training
                draw(checks, options.curve)

    try:
        settings |= {"seed": options.seed, "checkpoint": options.checkpoint}
        model = CharLM.train(training, validation=validation, callback=show, **settings)
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"shakespeare.py train: {error}") from None
    keep(model, options.model)
    print(f"\n{model.generate(prompt, 500, temperature=0.8, seed=options.seed)}\n")
    loss = report("validation", model, validation)
    print(f"{time.perf_counter() - began:.0f} s in all; the model is in {options.model}")
    return loss


def sample(options: argparse.Namespace) -> None:
    model = load(options.model)
    choice = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p, "stop": options.stop}
    try:
        pieces = model.stream(options.prompt, options.length, seed=options.seed, **choice)
    except (TypeError, ValueError) as error:
        raise SystemExit(f"shakespeare.py sample: {error}") from None
    print(options.prompt, end="")
    with contextlib.suppress(KeyboardInterrupt):
        for piece in pieces:
            print(piece, end="", flush=True)
    print()


def evaluate(options: argparse.Namespace) -> float:
    _, validation = split(read_text(options.text))
    try:
        return [report(f"{path}: validation", load(path), validation) for path in options.models][-1]
    except ValueError as error:
        raise SystemExit(f"shakespeare.py evaluate: {error}") from None


def documented(options: argparse.Namespace) -> float:
    """Train the documented network: one number a character, 128 hidden units, windows of 100 characters."""
    text = read_text(options.text)
    check_new(options.model)
    vocabulary = "".join(sorted(set(text)))
    training, validation = split(text)
    if len(training) <= 100:
        raise SystemExit(f"--text: expected at least 113 characters, got {len(text)}")
    windows = Windows(encode("text", training, vocabulary), 100, 15 if options.quick else 1)
    network = LSTMNetwork(1, 128, len(vocabulary), apply_softmax=True, seed=options.seed)

    def model():
        return CharLM(network.params, network.config, vocabulary)

    def show():
        print(repr(model().generate(text[:5], 60)), flush=True)

    try:
        network.train(windows, epochs=options.epochs, learning_rate=0.01, periodic_callback=show)
    except KeyboardInterrupt:
        print("stopped early")
    keep(model(), options.model)
    loss = report("validation", model(), validation)
    print(f"the model is in {options.model}")
    return loss


def check_new(path: Path) -> None:
    """Refuse a file that is there, or a folder that is not, before anything is trained."""
    if path.exists():
        raise SystemExit(f"--model: expected a new file, got {path}, which exists; move it, or give another name")
    if not path.absolute().parent.is_dir():
        raise SystemExit(f"--model: expected a file in a folder that exists, got {path}")


def keep(model: CharLM, path: Path) -> None:
    """Save a model; a full disk ends no training."""
    try:
        model.save(path)
    except OSError as error:
        print(f"The model could not be saved: {error}")


def load(path: Path) -> CharLM:
    try:
        return CharLM.load(path)
    except OSError as error:
        raise SystemExit(f"{path}: expected a saved model ({error}); make one with: shakespeare.py train") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None


def pyplot():
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--curve needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw(checks: list, path: Path) -> None:
    """Draw the losses of a training into a file whose ending says the format."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    minutes = [check.seconds / 60 for check in checks]
    axes.plot(minutes, [check.loss for check in checks], "o-", label="training, with dropout")
    axes.plot(minutes, [check.validation.nats for check in checks], "o-", label="validation")
    axes.set(xlabel="minutes", ylabel="nats a character")
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    finally:
        plt.close(figure)


def main(arguments: list[str] | None = None) -> float | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, **defaults):
        made = commands.add_parser(function.__name__, help=defaults.pop("help"))
        made.set_defaults(function=function)
        if function is not evaluate:
            made.add_argument("--seed", type=natural, default=0, help="another seed, another result (default 0)")
        return made

    made = command(train, help="learn a text")
    made.add_argument("--text", type=Path, help="the text to learn (default: Shakespeare's, downloaded once)")
    made.add_argument("--model", type=Path, default=MODEL, help=f"where to keep the best model (default {MODEL})")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="a minute and a half: a smaller network, 2 epochs")
    how.add_argument("--best", action="store_true", help="hours: a larger network, more epochs")
    for name in ("hidden", "layers", "epochs", "streams", "window"):
        made.add_argument(f"--{name}", type=natural, metavar="N", help="see CharLM.train")
    made.add_argument("--dropout", type=float, metavar="P", help="see CharLM.train")
    made.add_argument("--curve", type=Path, metavar="FILE", help="draw the losses (needs the extra 'plot')")
    made.add_argument("--start", type=Path, metavar="MODEL", help="go on from a saved model, with this text")
    made.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="go on from here, if the training was stopped")

    made = command(sample, help="write with what was learned")
    made.add_argument("--model", type=Path, default=MODEL, help=f"a saved model (default {MODEL})")
    made.add_argument("--prompt", default="\n", help="what to write on from (default: a new line)")
    made.add_argument("--length", type=natural, default=1000, help="the most characters to write (default 1000)")
    made.add_argument("--temperature", type=float, default=0.8, help="0 for the likeliest character (default 0.8)")
    made.add_argument("--top-k", type=natural, metavar="K", help="choose among the K likeliest characters")
    made.add_argument("--top-p", type=float, metavar="P", help="among the likeliest that together have P")
    made.add_argument("--stop", metavar="TEXT", help="end with this text")

    made = command(evaluate, help="the exact loss of saved models over the last tenth of the text")
    made.add_argument("models", type=Path, nargs="*", default=[MODEL], help=f"saved models (default {MODEL})")
    made.add_argument("--text", type=Path, help="the text (default: Shakespeare's)")

    made = command(documented, help="learn with the documented network, which reads one number a character")
    made.add_argument("--text", type=Path, help="the text to learn (default: Shakespeare's, downloaded once)")
    made.add_argument("--model", type=Path, default=DOCUMENTED, help=f"where to keep it (default {DOCUMENTED})")
    made.add_argument("--epochs", type=natural, default=1, help="how often to go through all windows (default 1)")
    made.add_argument("--quick", action="store_true", help="a minute: every fifteenth window only")

    options = parser.parse_args(arguments)
    return options.function(options)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, got {text!r}")
    return int(text)


if __name__ == "__main__":
    use_cpu_cores()
    main()
