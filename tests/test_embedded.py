"""The embedded corpora: the same bytes everywhere, and true to meter, chemistry and arithmetic."""
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from data import embedded
from data.embedded import chem

SHA256 = {
    "web": "baf8aab25cd3610a624fb6994fcaf9e4e3555240ad2115ab9527e812cc01d4a6",
    "music": "9da3b0afce3c52633827df185777cc9bb8b0fe1c51d8b119bbe07178cf39eb99",
    "chem": "651d80e6e954d2bac3c1a91865879cdbe38b6b375f06ca7743e06c70cef6a13a",
    "chat": "c7859c304ce8c28954347ef7049773507c50da41bb180fcb3f20c95e1e096e5f",
}


@cache
def corpus(name):
    return list(embedded.documents(name))


@pytest.mark.parametrize("name", embedded.NAMES)
def test_bytes_are_pinned(name):
    assert hashlib.sha256("\0".join(corpus(name)).encode()).hexdigest() == SHA256[name]


@pytest.mark.parametrize("name", embedded.NAMES)
def test_documents_are_distinct_and_of_the_promised_sizes(name):
    documents = corpus(name)
    assert 0 <= sum(map(len, documents)) - embedded.SIZES[name] < embedded.LONGEST
    assert len(set(documents)) == len(documents)
    for document in documents:
        assert embedded.SHORTEST <= len(document) <= embedded.LONGEST
        assert document.isascii() and document == document.strip()


@pytest.mark.parametrize("name", ["chem", "chat"])  # the others have braces and vowels of their own
def test_no_slot_is_left_open_and_articles_and_blanks_are_right(name):
    mistake = re.compile(r"[{}]|\b[Aa] [aeiou][a-z]{3,}|\ban [^aeiou\W]| \n|  ")
    for document in corpus(name):
        assert not mistake.search(document), document


def test_no_hash_seed_changes_them():
    program = "from itertools import islice; from data import embedded; " \
              "print(list(islice(embedded.documents('chem'), 50)))"
    for seed in ("1", "2"):
        text = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=True,
                              stdout=subprocess.PIPE, env=os.environ | {"PYTHONHASHSEED": seed}).stdout
        assert text.decode() == f"{corpus('chem')[:50]}\n"


def test_a_mixture_has_its_shares_of_documents_that_the_corpora_do_not_have():
    mixture = list(islice(embedded.documents("web75music25"), 200))
    of_web = set(islice(embedded.numbered("web", embedded.LATER), 200))
    web = [document for document in mixture if document in of_web]
    music = [document for document in mixture if document not in of_web]
    assert sum(map(len, web)) / sum(map(len, mixture)) == pytest.approx(0.75, abs=0.02)
    assert music == list(islice(embedded.numbered("music", embedded.LATER), len(music)))
    assert not set(mixture) & {*corpus("web"), *corpus("music")}
    assert set(islice(embedded.documents("web100music0"), 50)) <= of_web


@pytest.mark.parametrize("name", ["web75music20", "web75tunes25", "web75", "75web25music", "WEB75music25"])
def test_what_is_no_mixture(name):
    assert embedded.shares(name) == {}


def test_web_has_every_character_of_the_others():
    seen = Counter("".join(corpus("web")))
    for name in embedded.NAMES:
        for character in set("".join(corpus(name))):
            assert seen[character] >= 100, (name, character)


def test_the_version_has_the_code_and_the_text():
    folder = Path(embedded.__file__).parent
    for file in ("__init__.py", "chem.py", "chem.txt", "common.txt", "grammar.py"):
        assert (folder / file).read_bytes() in embedded.version()


# ---- music

NOTE = re.compile(r"[_=^]?[A-Ga-g][,']*(\d*)(?:/(\d+))?")


def without_chords(abc):
    return re.sub(r'"[^"]*"', "", abc)


def length(bar):
    """Add up a bar of ABC in unit notes: notes, broken rhythms (whose sum is that of two notes), triplets."""
    bar, total = without_chords(bar), Fraction(0)
    while bar := bar.lstrip(" >\n"):
        notes, stretch = 1, Fraction(1)
        if bar.startswith("(3"):
            bar, notes, stretch = bar.removeprefix("(3"), 3, Fraction(2, 3)
        for _ in range(notes):
            note = NOTE.match(bar)
            total += Fraction(int(note[1] or 1), int(note[2] or 1)) * stretch
            bar = bar[note.end():]
    return total


def test_length_of_a_bar():
    assert length('"Am"A>B (3^cd\'e') == 4
    assert length("A,/2B/2 c3") == 4
    assert length("AB") == 2


def fields_and_bars(document):
    """Take a tune apart: its fields by letter, and the text of its bars with and without bar lines."""
    fields = dict(re.findall(r"^([A-Z]):(.+)$", document, re.M))
    lines = document[re.search(r"^K:.*\n", document, re.M).end():].split("\n")
    body = "\n".join(line for line in lines if "|" in line)
    bars = [bar for bar in re.split(r"\|:|:\|2|:\||\|1|\|\]|\|", body) if bar.strip()]
    return fields, body, bars


def test_bars_fill_their_meter_and_tunes_end_on_their_tonic():
    # The first hundreds of tunes have every dance, key and rhythm.
    tunes = [document for document in corpus("music") if "\nK:" in document][:400]
    meters = set()
    for document in tunes:
        fields, body, bars = fields_and_bars(document)
        assert len(bars) >= 16 and body.count("|:") == 2 == body.count(":|")

        # Bars are measured in unit notes, of which the meter has so many.
        notes_a_bar = Fraction(fields["M"]) / Fraction(fields["L"])
        assert {length(bar) for bar in bars} == {notes_a_bar}, document
        meters.add(fields["M"])

        # What a tune ends on is its key, in whichever octave.
        last = re.findall(r"[A-Ga-g]", without_chords(bars[-1]))[-1]
        assert last.upper() == fields["K"][0]
    assert len(tunes) == 400 and len(meters) >= 4


# ---- chemistry

def count_atoms(formula):
    """Count the atoms of a formula with a stack: independently of the corpus's own count."""
    stack = [Counter()]
    for opened, closed, times, element, number in re.findall(r"(\()|(\))(\d*)|([A-Z][a-z]?)(\d*)", formula):
        if opened:
            stack.append(Counter())
        elif closed:
            group = stack.pop()
            stack[-1].update({inner: count * int(times or 1) for inner, count in group.items()})
        else:
            stack[-1][element] += int(number or 1)
    return stack[0]


def count_side(side):
    """Count the atoms on one side of an equation."""
    total = Counter()
    for times, formula in re.findall(r"(?:(\d+) )?([A-Z][\w()]*)", side):
        total.update({atom: int(times or 1) * count for atom, count in count_atoms(formula).items()})
    return total


def test_reactions_balance():
    equation = re.compile(r"^(?:Answer: |.* is )?((?:\d+ )?[A-Z][\w()]* (?:\+ .*)?)-> ([^,\n]*)", re.M)
    equations = equation.findall("\n".join(corpus("chem")))
    for left, right in equations:
        assert count_side(left) == count_side(right), (left, right)
    assert len(equations) > 1000


def test_coefficients_are_the_smallest():
    assert chem.balanced(("C2H6", "O2"), ("CO2", "H2O")) == [2, 7, 4, 6]
    assert chem.balanced(("Al(OH)3", "H2SO4"), ("Al2(SO4)3", "H2O")) == [2, 3, 1, 6]


MASSES = {"methane": "16.04", "ethanol": "46.07", "ethanoic acid": "60.05", "propan-2-one": "58.08",
          "sodium chloride": "58.44", "calcium carbonate": "100.09", "magnesium sulfate": "120.36"}
SMILES = {"2-methylpropane": "CC(C)C", "ethanol": "CCO", "propan-2-one": "CC(=O)C", "ethanal": "CC=O",
          "ethyl ethanoate": "CC(=O)OCC", "3-ethylpentane": "CCC(CC)CC", "2-chloropropane": "CC(Cl)C",
          "2-methylpropanoic acid": "CC(C)C(=O)O", "chloromethane": "CCl", "propan-2-amine": "CC(N)C"}
SALTS = {"calcium phosphate": "Ca3(PO4)2", "magnesium hydroxide": "Mg(OH)2", "iron(II) sulfate": "FeSO4",
         "sodium carbonate": "Na2CO3", "aluminium oxide": "Al2O3", "zinc acetate": "Zn(CH3COO)2"}


def count_smiles(smiles):
    """Count the atoms of a SMILES without rings, its hydrogens from the valences left free."""
    # The stack remembers which atom a branch in brackets hangs on.
    atoms, free, stack = [], [], []
    last, bond = None, 1
    for token in re.findall(r"Cl|Br|[A-Z=()]", smiles):
        if token == "(":
            stack.append(last)
        elif token == ")":
            last = stack.pop()
        elif token == "=":
            bond = 2
        else:
            # An atom binds the one before it: where brackets have just closed, the one before these.
            atoms.append(token)
            free.append({"C": 4, "N": 3, "O": 2}.get(token, 1))
            if last is not None:
                free[-1] -= bond
                free[last] -= bond
            last, bond = len(atoms) - 1, 1

    # No atom may bind more than it can; what it still can, it binds in hydrogens.
    assert min(free) >= 0
    return Counter(atoms) + Counter(H=sum(free))


def test_formulas_fit_the_smiles():
    drawn = {chem.organic(Random(seed), tuple(chem.FAMILIES)) for seed in range(20_000)}
    assert len(drawn) > 300
    for compound in drawn:
        assert count_smiles(compound.smiles) == count_atoms(compound.formula), compound

    smiles = {compound.name: compound.smiles for compound in drawn}
    assert {name: smiles[name] for name in SMILES} == SMILES


def test_formulas_of_salts():
    assert {name: chem.FORMULAS[name] for name in SALTS} == SALTS


def test_molar_masses():
    text = "\n".join(corpus("chem"))
    masses = dict(re.findall(r"^[\w()=]+; \w+; ([\w -]+); ([\d.]+)$", text, re.M))
    masses |= dict(re.findall(r"^([\w() ]+): [\w()]+, ([\d.]+) g/mol$", text, re.M))
    assert {name: masses[name] for name in MASSES} == MASSES


# ---- chat

def clock_after(clock, minutes):
    hour, minute = clock.split(":")
    return "%d:%02d" % divmod(60 * int(hour) + int(minute) + int(minutes), 60)


@pytest.mark.parametrize("question, answered", [
    (r"What is (\d+) \+ (\d+)\?", lambda a, b: int(a) + int(b)),
    (r"(\d+) x (\d+) = \?", lambda a, b: int(a) * int(b)),
    (r"had (\d+) [a-z]+ and sold (\d+)\. How many were left\?", lambda a, b: int(a) - int(b)),
    (r"has (\d+) boxes with (\d+) [a-z]+ each\. How many in all\?", lambda a, b: int(a) * int(b)),
    (r"Sort in alphabetical order: ([a-z ]+)", lambda words: " ".join(sorted(words.split()))),
    (r"Reverse the order of the words: ([a-z ]+)", lambda words: " ".join(reversed(words.split()))),
    (r"started at (\d+:\d+) and took (\d+) minutes\. When did it end\?", clock_after),
])
def test_answers_are_right(question, answered):
    layouts = r"\n(?:Answer: |A: |Response: |=> |Assistant: |[\w ]+ answered: )(.*)"
    found = re.findall(question + layouts, "\n".join(corpus("chat")))
    assert len(found) > 20
    for *given, answer in found:
        assert answer == str(answered(*given))
