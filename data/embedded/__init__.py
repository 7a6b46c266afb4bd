"""Four embedded corpora, small stand-ins for the paper's C4, MusicPile, ChemPile and FLAN:

    web    everyday prose of the kinds found on the web: stories, letters, reviews, recipes, timetables, ...
    music  tunes in ABC notation, with talk about who plays them and a little theory
    chem   compounds by name, formula and SMILES, molar masses, balanced reactions and worked exercises
    chat   instructions with their (right) answers

A document is a pure function of its corpus's name and its number. Its bytes are the same on every machine and
Python version, because only `Random.random()` and exact arithmetic decide anything. A grammar makes the
sentences, from `common.txt` and from a text file of the corpus. What has to be computed (bars that fill their
meter, balanced equations, right answers) is a function in the module of the corpus, which the grammar calls
like any of its rules.
"""
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from data.embedded import chat, chem, music, web
from data.embedded.grammar import cast, say

RULES = {"web": web.RULES, "music": music.RULES, "chem": chem.RULES, "chat": chat.RULES}
NAMES = tuple(RULES)
SIZES = {"web": 4_500_000, "music": 1_500_000, "chem": 1_500_000, "chat": 1_500_000}  # characters, all ASCII
SHORTEST, LONGEST = 150, 1500  # characters of a document, both allowed


def documents(name: str, size: int | None = None) -> Iterator[str]:
    """Yield the documents of one of NAMES, all different, always the same ones in the same order.

    They have `size` characters in all, or the corpus's own: a larger corpus begins with the smaller.
    """
    seen, written, number = set(), 0, 0
    while written < (size or SIZES[name]):
        rng = Random(f"{name} {number}")
        number += 1
        text = say(rng, "{" + name + "}", RULES[name] | cast(rng))
        document = re.sub(r"\s*\n\s*", "\n", text).strip()

        # A grammar repeats itself now and then, but no document may be both trained on and held out.
        if SHORTEST <= len(document) <= LONGEST and document not in seen:
            seen.add(document)
            written += len(document)
            yield document


def version() -> list[bytes]:
    """Return the bytes of every file that decides the corpora, by which a cache of them can be keyed."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".txt"))
    return [path.read_bytes() for path in files]
