"""Networks: the one linear-layer factory, multi-layer perceptrons, recurrent cores, flat parameters.

Legend: B sequences, T time, N agents, C copies of the weights (absent: one set for all agents), R rows.
"""

from marl.nets.flat import FlatParameters, bind
from marl.nets.inputs import agent_inputs
from marl.nets.linear import Linear, dense_weight, linear
from marl.nets.mixing import monotonic_mix
from marl.nets.mlp import MLP
from marl.nets.optimise import Optimiser, linear_decay, load_tensors, tensors_of, undone_if_not_finite
from marl.nets.recurrent import GRU, LSTM

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "FlatParameters",
    "Linear",
    "Optimiser",
    "agent_inputs",
    "bind",
    "dense_weight",
    "linear",
    "linear_decay",
    "load_tensors",
    "monotonic_mix",
    "tensors_of",
    "undone_if_not_finite",
]
