"""How fast jlstm is, next to torch, Flax, Equinox and Keras: `python -m tests.benchmarks`."""
