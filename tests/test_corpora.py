"""The embedded corpora: the same bytes everywhere, and true to meter, chemistry and arithmetic."""
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random

import pytest

import corpora

SHA256 = {
    "web": "baf8aab25cd3610a624fb6994fcaf9e4e3555240ad2115ab9527e812cc01d4a6",
    "music": "9da3b0afce3c52633827df185777cc9bb8b0fe1c51d8b119bbe07178cf39eb99",
    "chem": "651d80e6e954d2bac3c1a91865879cdbe38b6b375f06ca7743e06c70cef6a13a",
    "chat": "c7859c304ce8c28954347ef7049773507c50da41bb180fcb3f20c95e1e096e5f",
}


@cache
def corpus(name):
    return list(corpora.documents(name))


@pytest.mark.parametrize("name", corpora.NAMES)
def test_bytes_are_pinned(name):
    assert hashlib.sha256("\0".join(corpus(name)).encode()).hexdigest() == SHA256[name]


@pytest.mark.parametrize("name", corpora.NAMES)
def test_documents(name):
    documents = corpus(name)
    assert 0 <= sum(map(len, documents)) - corpora.SIZES[name] < corpora.LONGEST
    assert len(set(documents)) == len(documents)
    for document in documents:
        assert 150 <= len(document) <= 1500 and document.isascii() and document == document.strip()
        if name in ("chem", "chat"):  # no slot left open, no wrong article, no stray blanks
            assert not re.search(r"[{}]|\b[Aa] [aeiou][a-z]{3,}|\ban [^aeiou\W]| \n|  ", document), document


def test_no_hash_seed_changes_them():
    program = "import corpora, itertools; print(list(itertools.islice(corpora.documents('chem'), 50)))"
    texts = {subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE,
                            check=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert texts == {repr(corpus("chem")[:50]).encode() + b"\n"}


def test_web_has_every_byte_of_the_others():
    seen = Counter("".join(corpus("web")))
    assert all(seen[byte] >= 100 for name in corpora.NAMES for byte in set("".join(corpus(name))))


# ---- music

NOTE = re.compile(r"[_=^]?[A-Ga-g][,']*(\d*)(?:/(\d+))?")


def length(bar):
    """The length of a bar of ABC in unit notes: notes, broken rhythms (whose sum is that of two notes), triplets."""
    bar, total = re.sub(r'"[^"]*"', "", bar), Fraction(0)
    while bar := bar.lstrip(" >\n"):
        notes = 3 if bar.startswith("(3") else 1
        bar = bar.removeprefix("(3")
        for _ in range(notes):
            note = NOTE.match(bar)
            total += Fraction(int(note[1] or 1), int(note[2] or 1)) * (Fraction(2, 3) if notes == 3 else 1)
            bar = bar[note.end():]
    return total


def test_length_of_a_bar():
    assert length('"Am"A>B (3^cd\'e') == 4 and length("A,/2B/2 c3") == 4 and length("AB") == 2


def test_bars_fill_their_meter():
    tunes = [document for document in corpus("music") if "\nK:" in document][:400]
    meters = Counter()
    for document in tunes:
        meter, unit = (Fraction(re.search(rf"^{field}:(\S+)$", document, re.M)[1]) for field in "ML")
        lines = document[re.search(r"^K:.*\n", document, re.M).end():].split("\n")
        body = "\n".join(line for line in lines if "|" in line)
        bars = [bar for bar in re.split(r"\|:|:\|2|:\||\|1|\|\]|\|", body) if bar.strip()]
        assert len(bars) >= 16 and body.count("|:") == 2 == body.count(":|")
        assert all(length(bar) * unit == meter for bar in bars), document
        meters[meter] += 1
        key = re.search(r"^K:([A-G][#b]?)", document, re.M)[1]
        last = re.findall(r"[A-Ga-g]", re.sub(r'"[^"]*"', "", bars[-1]))[-1]
        assert last.upper() == key[0]
    assert len(tunes) == 400 and len(meters) >= 4


# ---- chemistry

def count_atoms(formula):
    """Atoms of a formula, with a stack: independent of the program's own count."""
    stack = [Counter()]
    for open_, close, times, element, number in re.findall(r"(\()|(\))(\d*)|([A-Z][a-z]?)(\d*)", formula):
        if open_:
            stack.append(Counter())
        elif close:
            group = stack.pop()
            stack[-1].update({inner: count * int(times or 1) for inner, count in group.items()})
        else:
            stack[-1][element] += int(number or 1)
    return stack[0]


def test_reactions_balance():
    number = 0
    for document in corpus("chem"):
        for answer in re.findall(r"^(?:Answer: |.* is )?((?:\d+ )?[A-Z][\w()]* (?:\+ .*)?-> [^,\n]*)", document, re.M):
            sides = []
            for side in answer.split(" -> "):
                sides.append(Counter())
                for times, formula in re.findall(r"(?:(\d+) )?([A-Z][\w()]*)", side):
                    sides[-1].update({atom: int(times or 1) * n for atom, n in count_atoms(formula).items()})
            assert sides[0] == sides[1], answer
            number += 1
    assert number > 1000


MASSES = {"methane": "16.04", "ethanol": "46.07", "ethanoic acid": "60.05", "propan-2-one": "58.08",
          "sodium chloride": "58.44", "calcium carbonate": "100.09", "magnesium sulfate": "120.36"}
SMILES = {"2-methylpropane": "CC(C)C", "ethanol": "CCO", "propan-2-one": "CC(=O)C", "ethyl ethanoate": "CC(=O)OCC",
          "3-ethylpentane": "CCC(CC)CC", "2-methylpropanoic acid": "CC(C)C(=O)O", "chloromethane": "CCl",
          "propan-2-amine": "CC(N)C", "ethanal": "CC=O", "2-chloropropane": "CC(Cl)C"}
SALTS = {"calcium phosphate": "Ca3(PO4)2", "magnesium hydroxide": "Mg(OH)2", "iron(II) sulfate": "FeSO4",
         "sodium carbonate": "Na2CO3", "aluminium oxide": "Al2O3", "zinc acetate": "Zn(CH3COO)2"}


def test_names_formulas_and_masses():
    drawn = {name: (formula, smiles) for name, formula, smiles, _ in
             (corpora.organic(Random(seed), tuple(corpora.FAMILIES)) for seed in range(20_000))}
    assert len(drawn) > 300
    for formula, smiles in drawn.values():
        assert count_smiles(smiles) == count_atoms(formula), smiles
    assert {name: drawn[name][1] for name in SMILES} == SMILES
    assert {name: corpora.FORMULAS[name] for name in SALTS} == SALTS
    text = "\n".join(corpus("chem"))
    masses = dict(re.findall(r"^[\w()=]+; \w+; ([\w -]+); ([\d.]+)$", text, re.M))
    masses |= dict(re.findall(r"^([\w() ]+): [\w()]+, ([\d.]+) g/mol$", text, re.M))
    assert {name: masses[name] for name in MASSES} == MASSES


def count_smiles(smiles):
    """Atoms of a SMILES without rings, hydrogens from the valences left free."""
    free, stack, last, bond = [], [], None, 1
    for token in re.findall(r"Cl|Br|[A-Z=()]", smiles):
        if token == "(":
            stack.append(last)
        elif token == ")":
            last = stack.pop()
        elif token == "=":
            bond = 2
        else:
            free.append([token, {"C": 4, "N": 3, "O": 2}.get(token, 1)])
            if last is not None:
                free[-1][1] -= bond
                free[last][1] -= bond
            last, bond = len(free) - 1, 1
    assert all(left >= 0 for _, left in free)
    return Counter(token for token, _ in free) + Counter(H=sum(left for _, left in free))


# ---- chat

def test_arithmetic_is_right():
    text, number = "\n".join(corpus("chat")), 0
    separator = r"\n(?:Answer: |A: |Response: |=> |Assistant: |[\w ]+ answered: )"
    for pattern, right in {
        r"What is (\d+) \+ (\d+)\?": lambda a, b: int(a) + int(b),
        r"(\d+) x (\d+) = \?": lambda a, b: int(a) * int(b),
        r"had (\d+) [a-z]+ and sold (\d+)\. How many were left\?": lambda a, b: int(a) - int(b),
        r"has (\d+) boxes with (\d+) [a-z]+ each\. How many in all\?": lambda a, b: int(a) * int(b),
        r"(Sort) in alphabetical order: ([a-z ]+)": lambda _, words: " ".join(sorted(words.split())),
        r"(Reverse) the order of the words: ([a-z ]+)": lambda _, words: " ".join(reversed(words.split())),
        r"started at (\d+:\d+) and took (\d+) minutes\. When did it end\?": lambda clock, more: "%d:%02d" % divmod(
            sum(int(n) * m for n, m in zip(clock.split(":"), (60, 1))) + int(more), 60),
    }.items():
        found = re.findall(pattern + separator + "(.*)", text)
        assert len(found) > 20, pattern
        for *question, answer in found:
            assert answer == str(right(*question)), (pattern, question)
