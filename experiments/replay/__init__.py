"""Kotha & Liang, Replaying pre-training data improves fine-tuning (2026)."""

from experiments.replay.claims import FIGURES
from experiments.replay.plan import CORPORA, SETTINGS

__all__ = ["CORPORA", "FIGURES", "SETTINGS"]
