"""The network in NumPy float64, with backpropagation through time written out by hand: an independent witness.

One sequence at a time and one step at a time; one file a cell, with its equations and its way back, and one row for it
in the table. Nothing in here is shared with the JAX side, and nothing of it is imported: parameters and states are
whatever has the fields, and come back as the same types.

The way back through time is from Werbos, *Backpropagation Through Time: What It Does and How to Do It* (1990).
"""

from jlstm.reference.network import forward, loss_and_grad
from jlstm.reference.table import CELLS

__all__ = ["CELLS", "forward", "loss_and_grad"]
