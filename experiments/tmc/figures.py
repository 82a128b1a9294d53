"""The plots of TMC's study: wins against messages, wins under losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.tmc.cells import METHODS, Measured, any_entry, cells, estimate, methods
from experiments.tmc.sweep import CHANNELS, Entry, talk, wins
from marl import plots


def _panels(measured: Measured, title: str) -> tuple[Figure, list[tuple[str, Axes]]]:
    envs = sorted({m["env"] for m in measured})
    figure, axes = plots.canvas(len(envs), title)
    for env, ax in zip(envs, axes, strict=False):
        ax.set_title(env, fontsize=10)
        ax.set_ylabel("wins" if "success" in any_entry(measured, env) else "return", fontsize=9)
    return figure, list(zip(envs, axes, strict=False))


def _style(agent: str) -> dict[str, Any]:
    """Colour, marker and label of a method, the same in every panel; no panel has both silent teams."""
    more = [("#777777", "*"), ("#BBBBBB", "<"), ("#8B4513", "h")]
    looks = [*zip(plots.COLOURS, plots.MARKERS, strict=True), *more]
    k = METHODS.index(agent) - (agent in METHODS[METHODS.index("vdn") :])
    return {"color": looks[k][0], "marker": looks[k][1], "label": agent}


def _legend(ax: Axes) -> None:
    """Beside the panel, where it hides no point."""
    ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def pareto(measured: Measured) -> Figure:
    """Wins against messages per agent-step, a point per threshold: the mean over seeds."""
    figure, panels = _panels(measured, "Wins against messages, no loss")
    for env, ax in panels:
        for agent in methods(measured, env):
            points: dict[tuple[str, ...], list[tuple[float, float]]] = {}
            for m in measured:
                if (m["env"], m["agent"]) == (env, agent):
                    for words, entry in _by_setting(m).items():
                        points.setdefault(words, []).append((talk(entry), wins(entry)))
            xy = np.array([np.mean(p, 0) for p in points.values()]).reshape(-1, 2)
            ax.scatter(xy[:, 0], xy[:, 1], s=22, **_style(agent))
        ax.set_xlabel("messages per agent-step", fontsize=9)
        _legend(ax)
    return figure


def _by_setting(m: dict[str, Any]) -> dict[tuple[str, ...], Entry]:
    """What a run gave without loss, of every setting the entry of the most episodes."""
    without_loss = [e for e in m["entries"] if e["channel"] == "perfect"]
    return {tuple(e["words"]): e for e in sorted(without_loss, key=lambda e: int(e["episodes"]))}


def losses(measured: Measured) -> Figure:
    """Wins by loss level: IQM over seeds with its 95 % interval."""
    figure, panels = _panels(measured, "Wins when messages are lost")
    for env, ax in panels:
        for k, agent in enumerate(methods(measured, env)):
            by = [cells(measured, agent, wins, channel, env) for channel in CHANNELS]
            at = [i for i, values in enumerate(by) if values]
            found = [estimate(by[i]).numbers() for i in at]
            style = _style(agent) | {"markersize": 4, "linewidth": 1.2}
            ends = [[value - low if low is not None else 0.0 for value, low, _ in found]]
            ends.append([high - value if high is not None else 0.0 for value, _, high in found])
            x = np.array(at) + 0.06 * (k - 3)
            ax.errorbar(x, [f[0] for f in found], yerr=np.maximum(ends, 0), capsize=2, **style)
        ax.set_xticks(range(len(CHANNELS)), [c.replace("_", "\n") for c in CHANNELS], fontsize=7)
        _legend(ax)
    return figure
