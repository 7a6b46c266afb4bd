"""Four embedded corpora, small stand-ins for the paper's C4, MusicPile, ChemPile and FLAN:

    web    everyday prose of the kinds found on the web: stories, letters, reviews, recipes, timetables, ...
    music  tunes in ABC notation, with talk about who plays them and a little theory
    chem   compounds by name, formula and SMILES, molar masses, balanced reactions and worked exercises
    chat   instructions with their (right) answers

and mixtures: `web75music25` is three quarters web and a quarter music, of documents that these do not have.

A document is a pure function of its corpus's name and its number. Its bytes are the same on every machine and
Python version, because only `Random.random()` and exact arithmetic decide anything. A grammar makes the
sentences, from `common.txt` and from a text file of the corpus. What has to be computed (bars that fill their
meter, balanced equations, right answers) is a function in the module of the corpus, which the grammar calls
like any of its rules.
"""
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

from data.embedded import chat, chem, music, web
from data.embedded.grammar import cast, say

RULES = {"web": web.RULES, "music": music.RULES, "chem": chem.RULES, "chat": chat.RULES}
NAMES = tuple(RULES)
SIZES = {"web": 4_500_000, "music": 1_500_000, "chem": 1_500_000, "chat": 1_500_000}  # characters, all ASCII
SHORTEST, LONGEST = 150, 1500  # characters of a document, both allowed
MIXTURE = re.compile("([a-z]+)([0-9]+)([a-z]+)([0-9]+)")
MIXTURE_SIZE = 1_500_000
LATER = 10 ** 6                # number of a mixture's first document: the corpora's own come before it


def shares(name: str) -> dict[str, float]:
    """Read which corpora, of NAMES, a name stands for and their shares: web75music25 → 0.75 and 0.25.

    It is {} if the name stands for none.
    """
    if name in NAMES:
        return {name: 1.0}
    found = MIXTURE.fullmatch(name)
    if not found:
        return {}
    first, percent, second, rest = found.groups()
    if not {first, second} <= set(NAMES) or int(percent) + int(rest) != 100:
        return {}
    both = {first: int(percent) / 100, second: int(rest) / 100}
    return {part: share for part, share in both.items() if share}


def documents(name: str, size: int | None = None) -> Iterator[str]:
    """Yield the documents of a corpus or mixture, all different, always the same ones in the same order.

    They have `size` characters in all, or the corpus's own: a larger corpus begins with the smaller.
    """
    # The part that is furthest behind its share comes next.
    of_part = shares(name)
    first = 0 if name in NAMES else LATER
    parts = {part: numbered(part, first) for part in of_part}
    written = dict.fromkeys(of_part, 0)
    while sum(written.values()) < (size or SIZES.get(name, MIXTURE_SIZE)):
        part = min(of_part, key=lambda part: written[part] / of_part[part])
        document = next(parts[part])
        written[part] += len(document)
        yield document


def numbered(name: str, first: int) -> Iterator[str]:
    """Yield the documents of one of NAMES from a number on, all different, without an end."""
    seen = set()
    for number in count(first):
        rng = Random(f"{name} {number}")
        text = say(rng, "{" + name + "}", RULES[name] | cast(rng))
        document = re.sub(r"\s*\n\s*", "\n", text).strip()

        # A grammar repeats itself now and then, but no document may be both trained on and held out.
        if SHORTEST <= len(document) <= LONGEST and document not in seen:
            seen.add(document)
            yield document


def version() -> list[bytes]:
    """Return the bytes of every file that decides the corpora, by which a cache of them can be keyed."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".txt"))
    return [path.read_bytes() for path in files]
