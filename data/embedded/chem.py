"""The corpus `chem`: compounds and reactions whose names, formulas, SMILES, masses and coefficients agree."""
import re
from collections import Counter
from fractions import Fraction
from functools import cache
from math import lcm
from random import Random
from typing import NamedTuple

from data.embedded.grammar import COMMON, Lexicon, decimal, read_rules, say, skewed, whole

# ---- formulas

MASSES = dict(  # of the elements, in thousandths of g/mol
    H=1008, Li=6940, C=12011, N=14007, O=15999, F=18998, Na=22990, Mg=24305, Al=26982, P=30974, S=32060,
    Cl=35450, K=39098, Ca=40078, Fe=55845, Cu=63546, Zn=65380, Br=79904, Ag=107868, I=126904, Ba=137327,
    Pb=207200)


@cache
def atoms(formula: str) -> Counter:
    """Count the atoms of each element in a formula such as Ca3(PO4)2."""
    counts = Counter()
    for group, element, times in re.findall(r"(?:\((\w+)\)|([A-Z][a-z]?))(\d*)", formula):
        inside = atoms(group) if group else {element: 1}
        for atom, count in inside.items():
            counts[atom] += count * int(times or 1)
    return counts


def repeated(group: str, count: int) -> str:
    """Write so many atoms or groups of atoms in a formula: O, O2, (OH)2."""
    if count == 1:
        return group
    if len(re.findall("[A-Z]", group)) > 1:
        group = f"({group})"
    return f"{group}{count}"


def listed(counts: Counter) -> str:
    """Say how many atoms of each element there are: 2 C, 6 H."""
    return ", ".join(f"{count} {element}" for element, count in counts.items())


# ---- salts

class Ion(NamedTuple):
    formula: str
    charge: int  # without its sign


STABLE = {  # cations that make a salt that exists with every anion below
    "sodium": Ion("Na", 1), "calcium": Ion("Ca", 2), "magnesium": Ion("Mg", 2), "potassium": Ion("K", 1),
    "zinc": Ion("Zn", 2), "barium": Ion("Ba", 2), "lithium": Ion("Li", 1), "iron(II)": Ion("Fe", 2),
    "lead(II)": Ion("Pb", 2),
}
CATIONS = STABLE | {
    "aluminium": Ion("Al", 3), "copper(II)": Ion("Cu", 2), "silver": Ion("Ag", 1), "iron(III)": Ion("Fe", 3),
    "hydrogen": Ion("H", 1),
}
ANIONS = {
    "chloride": Ion("Cl", 1), "sulfate": Ion("SO4", 2), "nitrate": Ion("NO3", 1), "bromide": Ion("Br", 1),
    "hydroxide": Ion("OH", 1), "oxide": Ion("O", 2), "carbonate": Ion("CO3", 2), "phosphate": Ion("PO4", 3),
    "iodide": Ion("I", 1), "fluoride": Ion("F", 1), "sulfide": Ion("S", 2), "acetate": Ion("CH3COO", 1),
}
ACIDS = {"chloride": "hydrochloric acid", "nitrate": "nitric acid", "sulfate": "sulfuric acid",
         "bromide": "hydrobromic acid", "phosphate": "phosphoric acid"}  # by their anion


def salt(cation: str, anion: str) -> str:
    """Write the formula of two ions, as few of each as balance their charges."""
    plus, minus = CATIONS[cation], ANIONS[anion]
    charge = lcm(plus.charge, minus.charge)
    return repeated(plus.formula, charge // plus.charge) + repeated(minus.formula, charge // minus.charge)


def element(cation: str) -> str:
    """Name the element of an ion such as iron(II)."""
    return cation.partition("(")[0]


FORMULAS = {f"{cation} {anion}": salt(cation, anion) for cation in CATIONS for anion in ANIONS}
FORMULAS |= {acid: salt("hydrogen", anion) for anion, acid in ACIDS.items()}
FORMULAS |= {element(cation): ion.formula for cation, ion in CATIONS.items()}
FORMULAS |= {"water": "H2O", "carbon dioxide": "CO2", "oxygen": "O2", "hydrogen": "H2", "chlorine": "Cl2",
             "bromine": "Br2", "fluorine": "F2", "iodine": "I2"}  # last, as hydrogen is no metal

# ---- organic compounds

class Family(NamedTuple):
    ending: str  # of the name
    group: str  # the SMILES of the main group
    anywhere: bool  # whether the group may be at any carbon, which the name then tells


FAMILIES = {
    "alkane": Family("e", "", False),
    "alcohol": Family("ol", "O", True),
    "carboxylic acid": Family("oic acid", "(=O)O", False),
    "ester": Family("oate", "(=O)O", False),
    "haloalkane": Family("e", "", False),
    "amine": Family("amine", "N", True),
    "ketone": Family("one", "=O", True),
    "aldehyde": Family("al", "=O", False),
}
STEMS = "meth eth prop but pent hex hept oct non dec".split()  # by the number of carbons


class Branch(NamedTuple):
    smiles: str
    margin: int  # how many carbons must be on either side of its own, lest it be part of a longer chain


ALKYLS = {"methyl": Branch("C", 1), "ethyl": Branch("CC", 2)}
HALOGENS = {"chloro": Branch("Cl", 0), "bromo": Branch("Br", 0), "fluoro": Branch("F", 0),
            "iodo": Branch("I", 0)}


class Organic(NamedTuple):
    name: str
    formula: str
    smiles: str
    family: str


def organic(rng: Random, families: tuple[str, ...]) -> Organic:
    """Draw a compound: a chain of carbons with the main group of one of `families`, and perhaps a branch."""
    # The family decides where its main group may be, and with it how long the chain is at least.
    family = skewed(rng, families)
    ending, group, anywhere = FAMILIES[family]

    # Carbons are counted from the end nearer to the main group; a ketone's needs a carbon on either side.
    first = 2 if family == "ketone" else 1
    length = skewed(rng, range(2 * first - 1, 11))
    main = whole(rng, first, (length + 1) // 2) if anywhere else 1
    chain = ["C"] * length
    attach(chain, main, group)
    prefix = branched(rng, family, chain, main)

    # A SMILES is written towards the first carbon, where the second chain of an ester just goes on.
    smiles = "".join(reversed(chain))
    place = f"-{main}-" if anywhere and length > 2 else ""
    name = prefix + STEMS[length - 1] + "an" + place + ending
    if family == "ester":
        second = whole(rng, 1, 8)
        smiles += "C" * second
        name = f"{STEMS[second - 1]}yl {name}"
    return Organic(name, formula_of(smiles), smiles, family)


def attach(chain: list[str], place: int, group: str) -> None:
    """Hang a group on a carbon of the chain, in brackets unless the SMILES ends with that carbon."""
    chain[place - 1] += group if place == 1 else f"({group})"


def branched(rng: Random, family: str, chain: list[str], main: int) -> str:
    """Hang a branch on the chain, or none, and return how the name begins: "2-methyl", or ""."""
    # The branch of a haloalkane is the halogen that makes it one.
    branches = HALOGENS if family == "haloalkane" else ALKYLS
    kind = skewed(rng, tuple(branches))
    smiles, margin = branches[kind]

    # So it must have its branch. An ester has a second chain instead, and the others may have a branch.
    length = len(chain)
    if family == "ester":
        return ""
    if family != "haloalkane" and (length <= 2 * margin or rng.random() >= 0.6):
        return ""

    # Without a main group, or with it in the middle, carbons are counted from the end nearer to the branch.
    group = FAMILIES[family].group
    last = (length + 1) // 2
    if group and 2 * main <= length:
        last = length - margin
    place = whole(rng, 1 + margin, last)

    # The carbon of the main group gets no branch. The name tells no place where there is only one.
    if group and place == main:
        return ""
    attach(chain, place, smiles)
    return f"{place}-{kind}" if length > 2 else kind


def formula_of(smiles: str) -> str:
    """Write the formula of a SMILES without rings: carbon, hydrogen, then the others by the alphabet."""
    # n carbons bind 2 n + 2 hydrogens; a nitrogen adds one, a halogen replaces one, a double bond costs two.
    counts = Counter(re.findall("Cl|Br|[CNOFI]", smiles))
    halogens = counts["Cl"] + counts["Br"] + counts["F"] + counts["I"]
    counts["H"] = 2 * counts["C"] + 2 + counts["N"] - halogens - 2 * smiles.count("=")

    order = "C H Br Cl F I N O".split()
    return "".join(repeated(atom, counts[atom]) for atom in order if counts[atom])


def compound(rng: Random, lexicon: Lexicon) -> str:
    """Write about one substance."""
    # Organic compounds have a structure to tell, salts have charges to balance.
    if rng.random() < 0.7:
        page = "{organic_card}"
        name, formula, smiles, family = organic(rng, tuple(FAMILIES))
        lexicon.update(smiles=smiles, family=family)
    else:
        page = "{salt_card}"
        cation, anion = skewed(rng, tuple(STABLE)), skewed(rng, tuple(ANIONS))
        plus, minus = CATIONS[cation], ANIONS[anion]
        name = f"{cation} {anion}"
        formula = FORMULAS[name]
        lexicon["charges"] = f"{plus.formula} {plus.charge}+ and {minus.formula} {minus.charge}-"

    # The mass is rounded to the hundredths that are shown, and only then multiplied: the product is exact.
    counts = atoms(formula)
    mass = (sum(MASSES[atom] * count for atom, count in counts.items()) + 5) // 10
    working = [f"{count} x {decimal(MASSES[atom], 3)}" for atom, count in counts.items()]
    moles = whole(rng, 2, 20)
    lexicon.update(name=name, formula=formula, count=listed(counts), working=" + ".join(working),
                   mass=decimal(mass), moles=str(moles), grams=decimal(moles * mass))
    return say(rng, page, lexicon)


# ---- reactions

class Reaction(NamedTuple):
    kind: str
    cations: str  # those that may take part
    anions: str  # any of them with any of those cations
    words: str


REACTIONS = [
    Reaction("combustion", "zinc", "oxide", "{fuel} + oxygen -> carbon dioxide + water"),
    Reaction("neutralisation", "sodium calcium zinc aluminium", "chloride sulfate nitrate",
             "{cation} hydroxide + {acid} -> {cation} {anion} + water"),
    Reaction("precipitation", "calcium barium zinc lead(II)", "carbonate phosphate",
             "{cation} nitrate + sodium {anion} -> {cation} {anion} + sodium nitrate"),
    Reaction("acid on metal", "magnesium zinc aluminium iron(II)", "chloride sulfate bromide",
             "{metal} + {acid} -> {cation} {anion} + hydrogen"),
    Reaction("precipitation", "copper(II) iron(III) aluminium", "hydroxide",
             "{cation} sulfate + sodium {anion} -> {cation} {anion} + sodium sulfate"),
    Reaction("acid on carbonate", "calcium sodium zinc", "chloride nitrate",
             "{cation} carbonate + {acid} -> {cation} {anion} + carbon dioxide + water"),
    Reaction("synthesis", "magnesium aluminium calcium zinc lithium", "chloride bromide fluoride iodide",
             "{metal} + {halogen} -> {cation} {anion}"),
    Reaction("oxidation", "magnesium aluminium calcium zinc lithium", "oxide",
             "{metal} + oxygen -> {cation} {anion}"),
    Reaction("precipitation", "silver lead(II)", "chloride iodide bromide",
             "{cation} nitrate + potassium {anion} -> {cation} {anion} + potassium nitrate"),
    Reaction("acid on oxide", "copper(II) magnesium zinc iron(III)", "sulfate chloride nitrate",
             "{cation} oxide + {acid} -> {cation} {anion} + water"),
    Reaction("displacement", "magnesium zinc aluminium iron(II)", "nitrate sulfate",
             "{metal} + copper(II) {anion} -> {cation} {anion} + copper"),
    Reaction("decomposition", "calcium magnesium zinc barium", "carbonate",
             "{cation} {anion} -> {cation} oxide + carbon dioxide"),
]


def reaction(rng: Random, lexicon: Lexicon) -> str:
    """Write about a balanced reaction."""
    # A combustion needs a fuel, the others two ions that do react.
    kind, cations, anions, words = skewed(rng, REACTIONS)
    cation, anion = skewed(rng, cations.split()), skewed(rng, anions.split())
    fuel = organic(rng, ("alkane", "alcohol", "ketone", "ester", "carboxylic acid"))

    # The words name the substances, and the names tell their formulas.
    lexicon.update(kind=kind, cation=cation, anion=anion, metal=element(cation), acid=ACIDS.get(anion, ""),
                   halogen=anion.removesuffix("ide") + "ine", fuel=fuel.name)
    reactants, products = (side.split(" + ") for side in say(rng, words, lexicon).split(" -> "))
    formulas = FORMULAS | {fuel.name: fuel.formula}
    left = tuple(formulas[name] for name in reactants)
    right = tuple(formulas[name] for name in products)

    # An exercise asks for the coefficients, and checks them by the atoms on one side.
    counts = balanced(left, right)
    terms = [term(count, formula) for count, formula in zip(counts, left + right)]
    tally = Counter()
    for count, formula in zip(counts, left):
        tally.update({atom: count * number for atom, number in atoms(formula).items()})
    lexicon.update(reactants=" and ".join(reactants), products=" and ".join(products), tally=listed(tally),
                   plain=arrow(left, right), equation=arrow(terms[:len(left)], terms[len(left):]))
    return say(rng, "{reaction_page}", lexicon)


def term(count: int, formula: str) -> str:
    """Write a formula with its coefficient, which is left out where it is one."""
    return f"{count} {formula}" if count > 1 else formula


def arrow(left, right) -> str:
    """Write the two sides of a reaction as an equation."""
    return f"{' + '.join(left)} -> {' + '.join(right)}"


@cache
def balanced(left: tuple[str, ...], right: tuple[str, ...]) -> list[int]:
    """Find the smallest whole coefficients of a reaction's formulas, those on the left first."""
    # Every element is a linear equation: its atoms on the left less those on the right, both weighted by the
    # unknown coefficients, are zero.
    rows = []
    for atom in sum(map(atoms, left), Counter()):
        row = [atoms(formula)[atom] for formula in left]
        row += [-atoms(formula)[atom] for formula in right]
        rows.append([Fraction(number) for number in row])

    # Gauss-Jordan elimination: each coefficient but the last gets a row of its own and leaves all the others.
    solved = []
    for place in range(len(left + right) - 1):
        pivot = next(row for row in rows if row[place])
        rows.remove(pivot)
        pivot = [number / pivot[place] for number in pivot]
        rows = [eliminated(row, place, pivot) for row in rows]
        solved = [eliminated(row, place, pivot) for row in solved] + [pivot]

    # A row now has the ratio of its coefficient to the last, which is chosen so that all come out whole.
    ratios = [-row[-1] for row in solved]
    last = lcm(*(ratio.denominator for ratio in ratios))
    return [int(ratio * last) for ratio in ratios] + [last]


def eliminated(row: list[Fraction], place: int, pivot: list[Fraction]) -> list[Fraction]:
    """Subtract from a row what makes it zero at `place`, where `pivot` is one."""
    return [number - row[place] * other for number, other in zip(row, pivot)]


RULES = COMMON | read_rules("chem.txt") | {"compound": [compound], "reaction": [reaction]}
