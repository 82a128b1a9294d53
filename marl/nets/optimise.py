"""One optimiser step on a whole network, and the network's tensors as a checkpoint keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from marl.errors import MarlError, NonFiniteError
from marl.nets import kernels
from marl.nets.flat import FlatParameters, bind

if TYPE_CHECKING:
    from marl.sparse.pruning import Pruner, Resting

_BETA1, _BETA2 = 0.9, 0.999  # adam's, torch's default and every cited method's


class Optimiser:
    """Gradient, norm, clipping and step of all parameters of a module as one vector.

    The steps are torch.optim's, bit for bit on the CPU; its classes import torch's compiler, which takes
    longer than all else at the start of a run.

    Args:
        module: moved into one vector here (`FlatParameters`).
        kind: adam, or rmsprop (eps is added to the root, as in torch).
        learning_rate: > 0.
        eps: >= 0.
        alpha: decay of rmsprop's mean square.
        max_grad_norm: > 0.
        native: adam's step in one native pass where that serves; it rounds unlike torch's.
        pruner: what makes the module sparse, or None. Weights that rest take no part in a step: their values
            and statistics stay.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        kind: Literal["adam", "rmsprop"],
        learning_rate: float,
        eps: float,
        alpha: float = 0.99,
        max_grad_norm: float,
        native: bool = False,
        pruner: Pruner | None = None,
    ) -> None:
        self.flat, self.max_grad_norm, self.pruner = FlatParameters(module), max_grad_norm, pruner
        self.kind, self.learning_rate, self.eps, self.alpha = kind, learning_rate, eps, alpha
        self._native = native and kind == "adam"
        self._state: dict[str, Tensor] = {}  # by torch's names

    def set_learning_rate(self, rate: float) -> None:
        """Args: rate: >= 0; no part of `state_dict`, for whoever schedules it knows how far it is."""
        self.learning_rate = rate

    @property
    def steps(self) -> int:
        """Steps made so far."""
        return int(self._state["step"]) if self._state else 0

    def step(self, loss: Tensor, name: str = "loss") -> Tensor:
        """Differentiate, clip and step; returns the gradient's norm before clipping.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite; nothing was changed.
        """
        self._clear()  # others may have differentiated this network
        if torch.isfinite(loss):  # else `apply` says so
            loss.backward()  # type: ignore[no-untyped-call]
        return self.apply(loss, name)

    def apply(self, loss: Tensor, name: str = "loss") -> Tensor:
        """Clip the gradient that `flat.grad` holds and step; returns its norm before clipping.

        Args:
            loss: that the gradient belongs to, on any device.
            name: of the loss, for the message.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite; no parameter was changed.
        """
        if not math.isfinite(float(loss.detach())):
            self._clear()
            raise NonFiniteError(name)
        if self.pruner is not None:
            self.pruner.before_step()
        resting = [] if self.pruner is None else self.pruner.resting()
        native = self._native and kernels.usable(self.flat.vector) and not resting
        norm = self._native_step() if native else torch.linalg.vector_norm(self.flat.grad)
        if not math.isfinite(float(norm)):
            self._clear()
            raise NonFiniteError(f"gradient of {name}")
        if not native:
            shrink = self.max_grad_norm / (norm + 1e-6)  # 1e-6 as in torch.nn.utils.clip_grad_norm_
            self.flat.grad.mul_(shrink.clamp(max=1.0))
            self._plain_step(resting)
            self.flat.grad.zero_()
        if self.pruner is not None:
            self._move(self.pruner)
        return norm

    def _clear(self) -> None:
        self.flat.grad.zero_()
        if self.pruner is not None:
            self.pruner.clear()

    def _statistics(self) -> dict[str, Tensor]:
        """Step count and moments of the whole vector, zeros before the first step; changed in place."""
        if not self._state:
            names = ("exp_avg", "exp_avg_sq") if self.kind == "adam" else ("square_avg",)
            zeros = {name: torch.zeros_like(self.flat.vector.data) for name in names}
            self._state = {"step": torch.zeros(()), **zeros}
        return self._state

    @torch.no_grad()
    def _plain_step(self, resting: Sequence[Resting]) -> None:
        """The step as torch.optim has it, but for entries that rest; they cost nothing."""
        state, first = self._statistics(), 0
        state["step"] += 1
        for parameter, kept, factor in resting:  # in the order of the vector
            start = self.flat.start[parameter]
            self._step_of(slice(first, start), 1.0)
            self._step_of(slice(start, start + kept), factor)
            first = start + parameter.numel()
        self._step_of(slice(first, len(self.flat.vector)), 1.0)

    def _step_of(self, part: slice, factor: float) -> None:
        """Of a part of the vector, with `factor` times the learning rate."""
        state, lr = self._statistics(), factor * self.learning_rate
        p, g, steps = self.flat.vector.data[part], self.flat.grad[part], int(state["step"])
        if self.kind == "rmsprop":
            root = state["square_avg"][part].mul_(self.alpha).addcmul_(g, g, value=1 - self.alpha)
            p.addcdiv_(g, root.sqrt().add_(self.eps), value=-lr)
        else:
            mean = state["exp_avg"][part].lerp_(g, 1 - _BETA1)
            root = state["exp_avg_sq"][part].mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2).sqrt()
            root = root.div_((1 - _BETA2**steps) ** 0.5).add_(self.eps)
            p.addcdiv_(mean, root, value=-lr / (1 - _BETA1**steps))

    def _move(self, pruner: Pruner) -> None:
        """Let the pruner change what it changes; statistics go where their weights went."""
        state = self._statistics()
        for parameter, order in pruner.after_step(int(state["step"])):
            start = self.flat.start[parameter]
            for name, value in state.items():
                if name != "step":
                    part = value[start : start + parameter.numel()]
                    part.copy_(part[order])

    def _native_step(self) -> Tensor:
        """Adam in one pass; nothing changes where the gradient's norm, returned, is not finite."""
        vector, state = self.flat.vector, self._statistics()
        norm, steps = torch.empty(()), int(state["step"]) + 1
        arrays = vector.data, self.flat.grad, state["exp_avg"], state["exp_avg_sq"]
        numbers = steps, self.learning_rate, _BETA1, _BETA2, self.eps, self.max_grad_norm
        kernels.call("marl_adam", vector.numel(), *arrays, *numbers, norm)
        if math.isfinite(float(norm)):
            state["step"] += 1
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """The optimiser's statistics; empty before the first step."""
        return {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore, on the parameters' device; the scalar step count stays on the CPU, as torch wants it."""
        device = self.flat.vector.device
        self._state = {
            name: value.to(device, copy=True) if value.dim() else value.clone()
            for name, value in state.items()
        }


def linear_decay(done: int, over: int) -> float:
    """Factor that falls from 1 to 0 while `done` grows to `over`; always 1 where `over` is 0."""
    return max(1.0 - done / over, 0.0) if over else 1.0


class Restorable(Protocol):
    """What can be brought back to an earlier state."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@contextmanager
def undone_if_not_finite(team: Restorable) -> Iterator[None]:
    """Around an update of several steps: where one of them raises NonFiniteError, none was made."""
    before = team.state_dict()
    try:
        yield
    except NonFiniteError:
        team.load_state_dict(before)
        raise


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's parameters and buffers by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], part: str) -> None:
    """Copy tensors into a module's own.

    Args:
        module: of the same kind as the one they came from.
        tensors: by name, of `tensors_of`.
        part: what they are, for the message.

    Raises:
        MarlError: a tensor is missing, unknown or of another shape.
    """
    wanted = module.state_dict()
    if wrong := wanted.keys() ^ tensors.keys():
        names = ", ".join(sorted(wrong))
        raise MarlError(f"{part} of another method or configuration: {names} not on both sides")
    for name, own in wanted.items():
        if own.shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, wanted {tuple(own.shape)}"
            raise MarlError(f"{part}: {name} has shape {shapes}: use the configuration it was saved with")
        own.copy_(tensors[name])
    bind(module)
