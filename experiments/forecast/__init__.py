"""What Stage 3 will take of the capability, told from θ_post before anybody has fine-tuned it."""

from experiments.forecast.claims import FIGURES
from experiments.forecast.plan import CORPORA, SETTINGS

__all__ = ["CORPORA", "FIGURES", "SETTINGS"]
