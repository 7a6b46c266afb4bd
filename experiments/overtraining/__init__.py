"""Springer et al. (2025), *Overtrained Language Models Are Harder to Fine-Tune*."""

from experiments.overtraining.claims import FIGURES
from experiments.overtraining.plan import CORPORA, PLANS, SETTINGS

__all__ = ["CORPORA", "FIGURES", "PLANS", "SETTINGS"]
