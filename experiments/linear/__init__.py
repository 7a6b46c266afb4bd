"""What the linear networks of `theory/` say that real models should do."""

from experiments.linear.claims import FIGURES
from experiments.linear.plan import CORPORA, SETTINGS

__all__ = ["CORPORA", "FIGURES", "SETTINGS"]
