"""Which link agents talk through: `channel=heavy`, `channel=bernoulli channel.loss=0.3 channel.delay=2`.

Files of the group: conf/channel/. Shipped chains: TMC's released code (commit 63bcca5); loss in the long run
and mean burst in packets are arithmetic on them (`stationary_loss`, `mean_burst`).

| name | loss | burst | average loss that the paper reports |
|---|---|---|---|
| light | 1.15 % | 1.16 | 1.5 % |
| medium | 8.42 % | 1.53 | 8.2 % |
| heavy | 12.03 % | 1.37 | 15.6 % |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from marl.errors import require

if TYPE_CHECKING:
    import torch

    from marl.channel.link import PerfectLink


class ChannelConfig(Protocol):
    """The Config of any channel."""

    def build(self, *, device: torch.device) -> PerfectLink: ...


@dataclass(kw_only=True)
class Perfect:
    """Nothing is lost. What every channel has besides: delay and bandwidth."""

    delay: int = 0  # steps from sending to arrival, >= 0
    # Bits that all links of one world carry in one exchange, >= 0; messages beyond it, drawn at random, are
    # lost. null: no limit. A message of M float32 features takes 32 M for every receiver.
    bandwidth: int | None = None

    from_stationary: ClassVar[bool] = True  # how a chain begins an episode: as in the long run, or delivering

    def __post_init__(self) -> None:
        require(self.delay >= 0, "delay", self.delay, "give 0 steps or more")
        fits = self.bandwidth is None or self.bandwidth >= 0
        require(fits, "bandwidth", self.bandwidth, "give null or a number of bits of 0 or more")

    @property
    def back(self) -> tuple[float, ...]:
        """Probabilities of the chain of losses (`marl.channel.chain`); () is none."""
        return ()

    def build(self, *, device: torch.device) -> PerfectLink:
        """A link that has counted nothing yet."""
        from marl.channel.link import PerfectLink
        from marl.channel.lossy import ChannelLink

        if not self.back and not self.delay and self.bandwidth is None:
            return PerfectLink(device)
        return ChannelLink(
            device,
            back=self.back,
            from_stationary=self.from_stationary,
            delay=self.delay,
            bandwidth=self.bandwidth,
        )


@dataclass(kw_only=True)
class Bernoulli(Perfect):
    """Every message is lost with the same probability."""

    loss: float = 0.1  # [0, 1]; CHOICE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.loss <= 1, "loss", self.loss, "give a number in [0, 1]")

    @property
    def back(self) -> tuple[float, ...]:
        return (1 - self.loss,) * 2


@dataclass(kw_only=True)
class GilbertElliott(Perfect):
    """Two states, given by what they amount to: loss = p_gb / (p_gb + p_bg), burst = 1 / p_bg."""

    loss: float = 0.156  # share of packets lost in the long run, [0, 1); TMC's paper, heavy
    burst: float = 1.5  # packets lost in a row on average, >= 1; CHOICE, as the shipped chains

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.loss < 1, "loss", self.loss, "give a number in [0, 1)")
        least = max(1.0, self.loss / (1 - self.loss))
        require(self.burst >= least, "burst", self.burst, f"give {least:g} or more: losses are that frequent")

    @property
    def back(self) -> tuple[float, ...]:
        leave = 1 / self.burst
        return (1 - leave * self.loss / (1 - self.loss), leave)


@dataclass(kw_only=True)
class Bursts(Perfect):
    """A chain of any length. CHOICE: it begins every episode delivering, as in TMC's released code."""

    returns: tuple[float, ...]  # p_0 .. p_{K-1}, each [0, 1]; K >= 2

    from_stationary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = len(self.returns) >= 2 and all(0 <= p <= 1 for p in self.returns)
        require(fits, "returns", self.returns, "give two or more numbers in [0, 1]")

    @property
    def back(self) -> tuple[float, ...]:
        return self.returns
