"""Robustness of teams: how observations may be perturbed, shared by attacks and defences."""

from marl.robust.perturbation import Aim, Budget, Limits, away, fgsm, iterative_fgsm, pgd, project, towards

__all__ = [
    "Aim",
    "Budget",
    "Limits",
    "away",
    "fgsm",
    "iterative_fgsm",
    "pgd",
    "project",
    "towards",
]
