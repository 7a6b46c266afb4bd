"""Feng et al. (2026), *Early Data Exposure Improves Robustness to Subsequent Fine-Tuning*."""

from experiments.early_exposure.claims import FIGURES
from experiments.early_exposure.plan import CORPORA, PLANS, SETTINGS

__all__ = ["CORPORA", "FIGURES", "PLANS", "SETTINGS"]
