"""Train here, run there: a language model that writes with ONNX Runtime alone, without JAX or jlstm.

deploy.py train TEXT       learn a text, export the model, and run it in a process of its own beside jlstm
deploy.py run TEXT         what that process does: read a text and write on, with NumPy and ONNX Runtime
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NEEDS = "deploy.py needs onnx and ONNX Runtime: pip install 'jlstm[onnx]' onnxruntime"
HELD_OUT, WRITTEN = 0.1, 1000
SETTINGS = {"hidden_size": 256, "dropout": 0.1, "streams": 16}


def train(options: argparse.Namespace) -> dict[str, float]:
    """Learn a text, export the model, and say what ONNX Runtime makes of it."""
    try:
        import onnx  # noqa: F401 - to know of it before the training, not behind it
        import onnxruntime  # noqa: F401
    except ImportError:
        raise SystemExit(NEEDS) from None
    import jax

    from jlstm import CharLM, forward

    text = read(options.text)
    if not options.model.parent.is_dir():
        raise SystemExit(f"There is no folder {options.model.parent} to write the model into.")
    first = int(len(text) * (1 - HELD_OUT))
    model = CharLM.train(text[:first], validation=text[first:], epochs=options.epochs, seed=0, **SETTINGS)
    model.export_onnx(options.model)
    print(f"The model is in {options.model}.")

    ids = np.array([[model.vocabulary.index(character) for character in text[first:]]])
    scores = np.asarray(jax.jit(forward)(model.params, ids, model.config)[0])
    prompt = text[first : first + 100]
    model.generate(prompt, WRITTEN)  # compiles
    began = time.perf_counter()
    model.generate(prompt, WRITTEN)
    ours = (time.perf_counter() - began) / WRITTEN

    with tempfile.TemporaryDirectory() as folder:
        logits = f"{folder}/logits.npy"
        command = [sys.executable, __file__, "run", options.text, "--model", options.model, "--logits", logits]
        ran = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
        theirs = np.load(logits)
    print(ran.stdout.strip())
    found = {
        "difference": float(np.abs(theirs - scores).max() / np.abs(scores).max()),
        "same": float((theirs.argmax(axis=-1) == scores.argmax(axis=-1)).mean()),
        "nats": nats(scores, ids),
    }
    print(f"jlstm: {found['nats']:.4f} nats a character, {ours * 1e6:.1f} µs for each that it wrote")
    print(
        f"Outputs differ by at most {found['difference']:.1e} of the largest; of {ids.size:,} likeliest characters "
        f"{found['same']:.4%} are the same."
    )
    return found


def run(options: argparse.Namespace) -> dict[str, float]:
    """Read the text held out and write on from its beginning, with the exported model alone."""
    try:
        import onnxruntime
    except ImportError:
        raise SystemExit(NEEDS) from None

    text = read(options.text)
    if not options.model.is_file():
        raise SystemExit(f"There is no model {options.model}: deploy.py train TEXT makes one.")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # that an input may be left out is meant
    try:
        session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
        vocabulary = json.loads(session.get_modelmeta().custom_metadata_map["vocabulary"])
    except Exception:  # of kinds of ONNX Runtime's own
        raise SystemExit(f"{options.model} is no model that deploy.py train TEXT made.") from None
    held_out = text[int(len(text) * (1 - HELD_OUT)) :]
    if len(held_out) < 2:
        raise SystemExit(f"{options.text} is too short: of its {len(text)} characters {len(held_out)} are held out.")
    if unknown := sorted({*held_out} - {*vocabulary}):
        few = f"{''.join(unknown[:10])!r}{' and more' * (len(unknown) > 10)}"
        raise SystemExit(f"{options.text} has characters that {options.model} has not learned: {few}.")
    ids = np.array([[vocabulary.index(character) for character in held_out]])
    [scores] = session.run(["outputs"], {"x": ids})
    if options.logits:
        np.save(options.logits, scores)

    began = time.perf_counter()
    written = write(session, vocabulary, ids[:, :100], options.temperature)
    took = (time.perf_counter() - began) / WRITTEN
    assert "jax" not in sys.modules
    print(f"ONNX Runtime wrote on, from {options.model}:\n{written[:300]}\n")
    print(f"ONNX Runtime: {nats(scores, ids):.4f} nats a character, {took * 1e6:.1f} µs for each that it wrote")
    return {"nats": nats(scores, ids)}


def read(path: Path) -> str:
    """Return what is in a text file, or end with what is wrong about it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} can not be read as a text: {getattr(error, 'strerror', None) or error}.") from None


def write(session, vocabulary: str, ids: np.ndarray, temperature: float, seed: int = 0) -> str:
    """Write on from ids `[1, time]`: a step reads the last character and the state that the one before gave."""
    rng, state, text = np.random.default_rng(seed), {}, []
    for _ in range(WRITTEN):
        scores, state["h_0"], state["c_0"] = session.run(["outputs", "h_n", "c_n"], {"x": ids, **state})
        chances = np.exp((scores[0, -1] - scores[0, -1].max()) / temperature)
        ids = np.array([[rng.choice(len(chances), p=chances / chances.sum())]])
        text.append(vocabulary[ids.item()])
    return "".join(text)


def nats(scores: np.ndarray, ids: np.ndarray) -> float:
    """Return the mean loss of the scores at each place against the character behind it."""
    scores = scores[0, :-1] - scores[0, :-1].max(axis=-1, keepdims=True)
    right = np.take_along_axis(scores, ids[0, 1:, None], axis=-1)[:, 0]
    return float((np.log(np.exp(scores).sum(axis=-1)) - right).mean())


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "run"])
    parser.add_argument("text", type=Path, help="a text file, of which the last tenth is held out")
    parser.add_argument("--model", type=Path, default=Path("model.onnx"), help="the exported model (model.onnx)")
    parser.add_argument("--epochs", type=int, default=2, help="how often to go through the text (2)")
    parser.add_argument("--temperature", type=float, default=0.8, help="below 1 for likelier characters (0.8)")
    parser.add_argument("--logits", type=Path, help="where to keep the scores of the text held out")
    options = parser.parse_args(arguments)
    return {"train": train, "run": run}[options.command](options)


if __name__ == "__main__":
    main()
