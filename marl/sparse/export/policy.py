"""A policy with everything resolved: named inputs, a list of layers, and the steps that use them in order.

It is what `marl export` writes in every format, and what `load` gives back. A step names an operation, the
layers it uses, the values it reads and those it makes; operations are the functions of `OPS`, each with its
equation. There are no others, so that a file cannot ask for any code of its own.

Legend: B rows, N agents, A actions, O observation features, H state features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from marl.sparse.export.layers import Layer

SCORES, ACTION = "scores_BNA", "action_BNA"
CHOSEN = "chosen_BN"  # stands for the action that was taken: the caller's choice, not an output
_NEVER = -1e10  # score of an unavailable action


@dataclass(frozen=True, kw_only=True)
class Field:
    """An input of the policy.

    Args:
        name: its last part is the shape in letters.
        shape: without B.
        dtype: float32, int64 or bool.
        next: the output that is this input's value at the next step (`CHOSEN`: the action taken); "" for
            what the world gives.
        fill: every entry before the first step.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    next: str = ""
    fill: int = 0

    def full(self, rows: int) -> Tensor:
        """Its value before the first step."""
        return torch.full((rows, *self.shape), self.fill, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation.

    Args:
        op: a name of `OPS`.
        reads, makes: names of values.
        layers: names of layers.
        settings: numbers, text and lists of numbers.
    """

    op: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    layers: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


class Policy(nn.Module):
    """The step function of a team: observation and carry to scores and carry.

    Args:
        inputs: in the order of `forward`.
        outputs: names of values, in the order of what `forward` returns; `SCORES` is the first.
        steps: in order.
        layers: by name.
        about: plain data about the run it came from.
    """

    def __init__(
        self,
        inputs: Sequence[Field],
        outputs: Sequence[str],
        steps: Sequence[Step],
        layers: Mapping[str, Layer],
        about: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.steps = tuple(inputs), tuple(outputs), tuple(steps)
        self.layers, self.about = nn.ModuleDict(layers), dict(about)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            values: of `inputs`, each (B, ...), on the CPU.

        Returns:
            Values of `outputs`. Scores are Q-values or logits of all actions, available or not, or a
            Gaussian's means.
        """
        known = dict(zip((f.name for f in self.inputs), values, strict=True))
        for step in self.steps:
            layers = [self.layers[name] for name in step.layers]
            made = OPS[step.op](layers, *(known[name] for name in step.reads), **step.settings)
            known.update(zip(step.makes, made, strict=True))
        return tuple(known[name] for name in self.outputs)

    def initial_carry(self, rows: int) -> dict[str, Tensor]:
        """The inputs that the policy itself makes, before an episode's first step."""
        return {f.name: f.full(rows) for f in self.inputs if f.next}

    @torch.no_grad()
    def act(
        self, world: Mapping[str, Tensor], carry: Mapping[str, Tensor], avail_BNA: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The greedy action, and the carry of the next step.

        Args:
            world: the inputs that are not carry: "obs_BNO", and "alive_BN" where the policy reads it.
            carry: of `initial_carry` or of the step before.
            avail_BNA: bool; None where actions are continuous, or all available.

        Returns:
            int64 (B, N), or float32 (B, N, A) where actions are continuous.
        """
        made = dict(zip(self.outputs, self(*({**world, **carry}[f.name] for f in self.inputs)), strict=True))
        if ACTION in made:
            chosen = made[ACTION]
        else:
            scores_BNA = made[SCORES]
            chosen = (scores_BNA if avail_BNA is None else scores_BNA.masked_fill(~avail_BNA, _NEVER)).argmax(
                -1
            )
        made[CHOSEN] = chosen
        return chosen, {f.name: made[f.next] for f in self.inputs if f.next}

    def example(self, rows: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs that fit, for checks."""
        generator = torch.Generator().manual_seed(seed)
        out = []
        for f in self.inputs:
            shape = rows, *f.shape
            if f.dtype == "float32":
                out.append(torch.randn(shape, generator=generator))
            else:  # actions: -1 is none, and 0 there is always
                low = f.fill if f.dtype == "int64" else 0
                out.append(
                    torch.randint(low, low + 2, shape, generator=generator).to(getattr(torch, f.dtype))
                )
        return tuple(out)

    @property
    def bytes(self) -> tuple[int, int]:
        """Of all layers' tensors as they are, and as dense ones."""
        layers: list[Any] = list(self.layers.values())
        return sum(layer.bytes for layer in layers), sum(layer.dense_bytes for layer in layers)


# Operations. Each takes its layers, the values it reads, and its settings.

Values = tuple[Tensor, ...]


def _inputs(layers: Sequence[Any], *values: Tensor, actions: int, ids: bool) -> Values:
    """[observation | last action one-hot | agent id one-hot]; a last action of -1 is all zeros."""
    obs_BNO, *last = values
    parts = [obs_BNO]
    if last:
        parts.append((last[0][..., None] == torch.arange(actions)).to(obs_BNO.dtype))
    if ids:
        N = obs_BNO.shape[1]
        parts.append(torch.eye(N, dtype=obs_BNO.dtype).expand(obs_BNO.shape[0], N, N))
    return (torch.cat(parts, -1),)


def _layer(layers: Sequence[Any], x: Tensor) -> Values:
    """One layer alone."""
    return (layers[0](x),)


def _gru(layers: Sequence[Any], x: Tensor, h: Tensor) -> Values:
    """r = sigma(i_r + h_r), z = sigma(i_z + h_z), n = tanh(i_n + r h_n), h' = (1 - z) n + z h."""
    (ir, iz, i_n), (hr, hz, hn) = (layer(v).chunk(3, -1) for layer, v in zip(layers, (x, h), strict=True))
    r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    n = torch.tanh(i_n + r * hn)
    return (n + z * (h - n),)


def _lstm(layers: Sequence[Any], x: Tensor, h: Tensor, c: Tensor) -> Values:
    """i, f, g, o = W_i x + W_h h; c' = sigma(f) c + sigma(i) tanh(g), h' = sigma(o) tanh(c')."""
    i, f, g, o = (layers[0](x) + layers[1](h)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _add(layers: Sequence[Any], x: Tensor, y: Tensor) -> Values:
    return (x + y,)


def _cat(layers: Sequence[Any], x: Tensor, y: Tensor) -> Values:
    """Two values side by side in the last dimension."""
    return (torch.cat((x, y), -1),)


def _tanh(layers: Sequence[Any], x: Tensor) -> Values:
    return (torch.tanh(x),)


def _split(layers: Sequence[Any], x: Tensor, *, sizes: Sequence[int]) -> Values:
    """Parts of the last dimension."""
    return x.split(list(sizes), -1)


def _second(layers: Sequence[Any], x: Tensor) -> Values:
    """Whether the second of two scores is the larger one."""
    return (x[..., 1] > x[..., 0],)


def _talk(layers: Sequence[Any], alive_BN: Tensor, *gate: Tensor, messages: bool) -> Values:
    """Who hears whom, (B, receiver, sender): the living, if the sender's gate is open."""
    N = alive_BN.shape[1]
    talks_BN = alive_BN & gate[0] if gate else alive_BN
    other_NN = ~torch.eye(N, dtype=torch.bool)
    heard_BNN = talks_BN[:, None, :] & alive_BN[:, :, None] & other_NN
    return (heard_BNN if messages else heard_BNN & False,)


def _mean(layers: Sequence[Any], h_BNH: Tensor, heard_BNN: Tensor, alive_BN: Tensor) -> Values:
    """m_i = sum over heard j of h_j / max(1, alive - 1); zero for who is not alive."""
    share_BN = alive_BN / (alive_BN.sum(-1) - 1).clamp(min=1)[:, None]
    return (torch.where(heard_BNN[..., None], h_BNH[:, None], 0.0).sum(2) * share_BN[..., None],)


def _attention(
    layers: Sequence[Any], h_BNH: Tensor, heard_BNN: Tensor, alive_BN: Tensor, *, signature: int
) -> Values:
    """m_i = sum_j alpha_ij v_j, alpha_i = softmax_j(q_i . k_j / sqrt(K)) over itself and whom it heard."""
    say, query = layers
    self_NN = torch.eye(h_BNH.shape[1], dtype=torch.bool)
    known_BNN = heard_BNN | self_NN
    said_BNM = say(h_BNH)
    heard_BNNM = torch.where(known_BNN[..., None], said_BNM[:, None], 0.0)
    k_BNNK, v_BNNV = heard_BNNM[..., :signature], heard_BNNM[..., signature:]
    scores_BNN = (k_BNNK * query(h_BNH)[:, :, None]).sum(-1) * signature**-0.5
    alpha_BNN = scores_BNN.masked_fill(~known_BNN, -torch.inf).softmax(-1)
    return ((alpha_BNN[..., None] * v_BNNV).sum(2) * alive_BN[..., None],)


def _hear(layers: Sequence[Any], q_BNA: Tensor, m_BNA: Tensor, *alive: Tensor, divisor: int) -> Values:
    """q_i + sum over others j of m_j / divisor; of the living, where it is said who lives."""
    N = m_BNA.shape[1]
    heard_BNN = ~torch.eye(N, dtype=torch.bool).expand(m_BNA.shape[0], N, N)
    if alive:
        heard_BNN = heard_BNN & alive[0][:, None, :]
    return (q_BNA + torch.where(heard_BNN[..., None], m_BNA[:, None], 0.0).sum(2) / divisor,)


OPS: dict[str, Callable[..., Values]] = {
    "inputs": _inputs,
    "layer": _layer,
    "gru": _gru,
    "lstm": _lstm,
    "add": _add,
    "cat": _cat,
    "tanh": _tanh,
    "split": _split,
    "second": _second,
    "talk": _talk,
    "mean": _mean,
    "hear": _hear,
    "attention": _attention,
}
