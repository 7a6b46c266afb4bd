"""Why claims of Feng et al. (2026) are not seen: the same runs, with the suspected cause changed."""

from experiments.reasons.claims import FIGURES
from experiments.reasons.plan import CORPORA, SETTINGS

__all__ = ["CORPORA", "FIGURES", "SETTINGS"]
