"""Four embedded corpora, small stand-ins for the paper's C4, MusicPile, ChemPile and FLAN:

    web    everyday prose of the kinds found on the web: stories, letters, reviews, recipes, timetables, notes, ...
    music  tunes in ABC notation, with talk about who plays them and a little theory
    chem   compounds by name, formula and SMILES, molar masses, balanced reactions and worked exercises
    chat   instructions with their (right) answers

A document is a pure function of its corpus's name and its number, the same bytes on every machine and Python version,
because only `Random.random()` and exact arithmetic decide anything. A grammar makes the sentences; what has to be
computed (bars that fill their meter, balanced equations, right answers) is a function that the grammar calls as a rule.
"""
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from math import gcd, lcm
from pathlib import Path
from random import Random
from string import capwords

NAMES = ("web", "music", "chem", "chat")
SIZES = {"web": 4_500_000, "music": 1_500_000, "chem": 1_500_000, "chat": 1_500_000}  # in characters, all of them ASCII
SHORTEST, LONGEST = 150, 1500


def documents(name: str) -> Iterator[str]:
    """The documents of one corpus, all different, always the same ones in the same order."""
    seen, written, number = set(), 0, 0
    while written < SIZES[name]:
        rng, number = Random(f"{name} {number}"), number + 1
        document = re.sub(r"\s*\n\s*", "\n", say(rng, "{" + name + "}", cast(rng))).strip()
        if SHORTEST <= len(document) <= LONGEST and document not in seen:
            seen.add(document)
            written += len(document)
            yield document


# ---- chance and words

def whole(rng, low, high):
    """A whole number from `low` to `high`, both included."""
    return low + int((high - low + 1) * rng.random())


def skewed(rng, items):
    """An item, the early ones more often: the k-th with probability about 1 / sqrt(k)."""
    u = rng.random()
    return items[int(len(items) * u * u)]


def several(rng, items, count):
    """`count` different items in random order."""
    pool = list(items)
    return [pool.pop(whole(rng, 0, len(pool) - 1)) for _ in range(count)]


def decimal(number, places=2):
    return f"{number // 10 ** places}.{number % 10 ** places:0{places}d}"


STOP = "^([^aeiou]*[aeiou])([^aeiouwxy])$", r"\1\2\2"  # verbs like stop double their last letter
ENDINGS = {"s": (("(s|x|z|ch|sh)$", r"\1es"), ("([^aeiou])y$", r"\1ies"), ("$", "s")),
           "past": (("e$", "ed"), ("([^aeiou])y$", r"\1ied"), (STOP[0], STOP[1] + "ed"), ("$", "ed")),
           "ing": (("([^e])e$", r"\1ing"), (STOP[0], STOP[1] + "ing"), ("$", "ing"))}
IRREGULAR = {form: dict(pair.split() for pair in text.split(",")) for form, text in {
    "s": """mouse mice, goose geese, sheep sheep, fish fish, knife knives, loaf loaves, scarf scarves, shelf shelves,
        potato potatoes, tomato tomatoes, go goes""",
    "past": """find found, lose lost, hide hid, sell sold, buy bought, draw drew, keep kept, bring brought, take took,
        see saw, forget forgot, leave left, hold held, steal stole, choose chose, go went, run ran, eat ate, tell told,
        give gave, sit sat, sleep slept, sing sang, write wrote, read read, feed fed, catch caught, meet met, put put,
        shut shut, build built, throw threw, break broke, sweep swept, dig dug, speak spoke, light lit, pay paid""",
    "ing": "forget forgetting"}.items()}


@cache
def inflected(word, form):
    return IRREGULAR[form].get(word) or next(
        re.sub(pattern, ending, word, count=1) for pattern, ending in ENDINGS[form] if re.search(pattern, word))


def formed(text, form):
    """`text` with its article ("a"), as a title, or inflected: a noun at the last word, a verb at the first."""
    if form == "a":
        return ("an " if text[0] in "aeiou" else "a ") + text
    if form == "title":
        return capwords(text)
    if form == "plural":
        return re.sub(r"\w+$", lambda noun: inflected(noun[0], "s"), text)
    return re.sub(r"^\w+", lambda verb: inflected(verb[0], form), text)


SLOT = re.compile(r"{(?:(\w+)=)?([\w-]+)(?:\.(\w+))?}")


def say(rng, text, bound):
    """`text` with its slots filled. {adj} draws from the rule of that name, {x=adj} also remembers the words as {x},
    {2-9} is a number, {Adj} begins with a capital; {adj.a}, {thing.plural}, {do.past} are put into that form.
    Names in `bound` go before rules: that is how a document keeps its people, places and numbers."""
    def fill(slot):
        keep, symbol, form = slot.groups()
        rule = symbol[0].lower() + symbol[1:]
        if rule in bound:
            words = bound[rule]
        elif rule in GRAMMAR:
            words = skewed(rng, GRAMMAR[rule])
            words = words(rng, bound) if callable(words) else SLOT.sub(fill, words) if "{" in words else words
        else:
            words = str(whole(rng, *map(int, symbol.split("-"))))
        words = formed(words, form) if form else words
        words = words if rule == symbol else words[0].upper() + words[1:]
        if keep:
            bound[keep] = words
        return words
    return SLOT.sub(fill, text)


def cast(rng, first_person=False):
    """The people of a document: {who} is the hero, {she} {her} {hers} and {was} agree with the hero whoever that is,
    {pal} is a friend, with {he} {him} {his}."""
    (girl, other_girl), (boy, other_boy) = several(rng, GRAMMAR["girl"], 2), several(rng, GRAMMAR["boy"], 2)
    hero = "I I me my was" if first_person else skewed(rng, (
        f"{girl} she her her was", f"{boy} he him his was", f"{girl}_and_{boy} they them their were"))
    pal = skewed(rng, (f"{other_girl} she her her", f"{other_boy} he him his"))
    words = (word.replace("_", " ") for word in f"{hero} {pal}".split())
    return dict(zip(("who", "she", "her", "hers", "was", "pal", "he", "him", "his"), words))


def read_grammar(text):
    """The rules of `text`: `<name> word word ...` or `<name>| phrase | phrase ...`, where // is a new line."""
    rules = re.findall(r"<(\w+)>(\|?) ([^<]*)", re.sub(r"\s+", " ", text))
    return {name: [re.sub(" // ?", "\n", phrase.strip()) for phrase in body.split(" | ")] if bar else body.split()
            for name, bar, body in rules}


GRAMMAR = read_grammar(Path(__file__).with_suffix(".txt").read_text())

# ---- web

def mine(rng, bound):
    """Events told in the first person."""
    return say(rng, "{events} {events}", bound | cast(rng, first_person=True))


def code(rng, bound):
    """A password or a serial number, in which any printable character may turn up, so that `web` has seen them all."""
    return "".join(chr(whole(rng, 33, 126)) for _ in range(whole(rng, 4, 16)))


def figures(rng, bound):
    """A bill that comes out, or a timetable in equal steps."""
    count, price, start, step = whole(rng, 2, 12), whole(rng, 20, 999), whole(rng, 300, 900), 5 * whole(rng, 1, 12)
    clock = [f"{t // 60:02d}:{t % 60:02d}" for t in range(start, start + 7 * step, step)]
    stops = "".join(f"{{town}} | {' | '.join(clock[stop:stop + 5])}\n" for stop in range(3))
    return say(rng, skewed(rng, (
        f"{{Pal}} bought {count} {{thing.plural}} at ${decimal(price)} each: {count} x {decimal(price)} = "
        f"${decimal(count * price)}.", f"\n{{Path}} {{1-99}}, every {step} minutes:\n{stops}")), bound)


# ---- music

MODES = {  # by the ABC suffix: name, place of the tonic in the key's fifths, chords (by degree) of a part's first bars
    "": ("major", 1, "0033404 0053404 0304034 0405334"), "m": ("minor", 4, "0060464 0053464 0365064"),
    "dor": ("Dorian", 3, "0060366 0006036 0660606"), "mix": ("Mixolydian", 2, "0060366 0306036 0063406")}
FOURS, THREES, TWOS = "nnnn n2nn nnn2 n2n2 n3n (3nnnn2 n4", "nnn n2n nn2 n>nn n/2n/2nn n3", "n2 nn n>n n/2n/2n (3nnn n2"
DANCES = {  # meter, unit note, beats a bar, and the rhythms of a beat: n is a note, a beat of one note comes last
    "reel": ("4/4", "1/8", 2, FOURS), "jig": ("6/8", "1/8", 2, THREES), "waltz": ("3/4", "1/8", 3, TWOS),
    "hornpipe": ("4/4", "1/8", 4, "n>n nn n2 (3nnn n2"), "polka": ("2/4", "1/16", 2, FOURS),
    "slip jig": ("9/8", "1/8", 3, THREES), "air": ("3/4", "1/8", 3, TWOS), "march": ("4/4", "1/8", 2, FOURS)}
CREDITS = "", "C:{name} {surname}\n", "C:trad.\n", "O:{town}\n", "S:{who}, {town}\n", "N:{event}\n", "Q:1/4={70-180}\n"


def key(rng):
    """A key: its mode, its name in words, its scale, and the chord on each note of the scale."""
    lowest, mode = skewed(rng, (0, 1, -1, 2, -2, 3, -3, -4)), skewed(rng, tuple(MODES))  # 0 is C, 1 is G, -1 is F, ...
    name, tonic, _ = MODES[mode]
    fifths = [(tonic + 2 * degree) % 7 for degree in range(7)]  # a key is 7 fifths in a row, a step is two fifths
    notes = [lowest + fifth + 1 for fifth in fifths]
    scale = ["FCGDAEB"[note % 7] + "#" * (note // 7) + "b" * -(note // 7) for note in notes]
    chords = [note + ("", "m", "dim")[fifth // 3] for note, fifth in zip(scale, fifths)]
    return mode, f"{scale[0]} {name}", scale, chords


def tune(rng, bound):
    """A tune in ABC: two repeated parts of eight bars, each bar a motif set on the chord of the bar."""
    dance, (mode, key_name, scale, chords) = skewed(rng, tuple(DANCES)), key(rng)
    meter, unit, beats, rhythms = DANCES[dance]
    rhythms, home, with_chords = rhythms.split(), "CDEFGAB".index(scale[0][0]), rng.random() < 0.6
    if mode == "m":
        chords[4] = scale[4]  # the dominant of a minor key is major: the seventh note of the scale is raised there

    def beat(start):
        """A rhythm, and a melody in scale steps from the root of a chord."""
        rhythm, melody = skewed(rng, rhythms), [start + skewed(rng, (0, 2, 4, 7))]
        for _ in range(rhythm.count("n") - 1):
            melody.append(melody[-1] + skewed(rng, (1, -1, 2, -2, 3)))
        return rhythm, melody

    def note(step, raised):
        while not -3 <= step <= 9:  # folded into the range of the tune
            step += 7 if step < 0 else -7
        octave, letter = divmod(home + step, 7)
        sign = "" if step % 7 != raised else "=" if "b" in scale[raised] else "^"
        return sign + ("CDEFGAB" if octave < 1 else "cdefgab")[letter] + {-1: ",", 2: "'"}.get(octave, "")

    def bar(motif, root):
        raised = (6 if root == 4 else None) if mode == "m" else 3 if rng.random() < 0.04 else None
        lift = root - 7 * (root > 3)
        played = [re.sub("n", lambda _, steps=iter(melody): note(lift + next(steps), raised), rhythm)
                  for rhythm, melody in motif]
        return (f'"{chords[root]}"' if with_chords else "") + " ".join(played)

    motifs, parts = {}, ""
    for start in (0, whole(rng, 1, 4)):  # the second part starts higher and keeps two motifs of the first
        motifs.update((name, [beat(start) for _ in range(beats)]) for name in ("ab" if motifs else "cdab"))
        names = skewed(rng, ("abacabad", "abcdabcd", "aabcaabd", "abcbabcb", "ababcdcd"))
        roots = [int(root) for root in skewed(rng, MODES[mode][2].split())]
        varied = [motifs[name][:-1] + [beat(start)] if rng.random() < 0.1 else motifs[name] for name in names]
        bars = [bar(motif, root) for motif, root in zip(varied, roots + roots[-1:])]
        close = bar(varied[-1][:-1] + [(rhythms[-1], [0])], 0)  # a long tonic
        ending = f"|1 {bars[7]} :|2 {close} |]" if rng.random() < 0.4 else f"| {close} :|"
        parts += f"|: {' | '.join(bars[:4])} |\n{' | '.join(bars[4:7])} {ending}\n"
    bound.update(dance=dance, key=key_name, chords=", ".join(chords[:4]), scale=" ".join(scale))
    bound["title"] = say(rng, "{Tune_name.title}", bound)
    bound["abc"] = say(rng, f"X:{{1-999}}\nT:{{title}}\n{skewed(rng, CREDITS)}R:{dance}\nM:{meter}\nL:{unit}\n", bound)
    bound["abc"] += f"K:{scale[0]}{mode}\n{parts}"
    return say(rng, "{tune_page}", bound)


def lesson(rng, bound):
    """A sentence of theory about some key."""
    _, name, scale, chords = key(rng)
    root = whole(rng, 0, 5)
    notes = " ".join(scale[(root + step) % 7] for step in (0, 2, 4))
    bound.update(key=name, scale=" ".join(scale), chord=chords[root], notes=notes, fifth=scale[4])
    return say(rng, "{lesson_line}", bound)


# ---- chemistry

MASSES = {element: int(mass) for element, mass in re.findall(r"([A-Z][a-z]?)(\d+)", """H1008 C12011 N14007 O15999 F18998
    Na22990 Mg24305 Al26982 P30974 S32060 Cl35450 K39098 Ca40078 Fe55845 Cu63546 Zn65380 Br79904 Ag107868 I126904
    Ba137327 Li6940 Pb207200""")}  # in thousandths of g/mol
IONS = {name: (ion, int(charge)) for name, ion, charge in re.findall(r"(\S+) (\w+) (\d)", """
    sodium Na 1, calcium Ca 2, magnesium Mg 2, potassium K 1, zinc Zn 2, barium Ba 2, lithium Li 1, iron(II) Fe 2,
    lead(II) Pb 2, aluminium Al 3, copper(II) Cu 2, silver Ag 1, iron(III) Fe 3, hydrogen H 1,
    chloride Cl 1, sulfate SO4 2, nitrate NO3 1, bromide Br 1, hydroxide OH 1, oxide O 2, carbonate CO3 2,
    phosphate PO4 3, iodide I 1, fluoride F 1, sulfide S 2, acetate CH3COO 1""")}
METALS, PARTNERS = tuple(IONS)[:9], tuple(IONS)[14:]  # any two of these make a salt that exists
ACIDS = {"chloride": "hydrochloric acid", "nitrate": "nitric acid", "sulfate": "sulfuric acid",
         "bromide": "hydrobromic acid", "phosphate": "phosphoric acid"}
# kind; the cations {m} and the anions {x} that may take part, any with any; the reaction in words
REACTIONS = [row.split("; ") for row in """\
combustion; zinc; oxide; {fuel} + oxygen -> carbon dioxide + water
neutralisation; sodium calcium zinc aluminium; chloride sulfate nitrate; {m} hydroxide + {acid} -> {m} {x} + water
precipitation; calcium barium zinc lead(II); carbonate phosphate; {m} nitrate + sodium {x} -> {m} {x} + sodium nitrate
acid on metal; magnesium zinc aluminium iron(II); chloride sulfate bromide; {metal} + {acid} -> {m} {x} + hydrogen
precipitation; copper(II) iron(III) aluminium; hydroxide; {m} sulfate + sodium {x} -> {m} {x} + sodium sulfate
acid on carbonate; calcium sodium zinc; chloride nitrate; {m} carbonate + {acid} -> {m} {x} + carbon dioxide + water
synthesis; magnesium aluminium calcium zinc lithium; chloride bromide fluoride iodide; {metal} + {halogen} -> {m} {x}
oxidation; magnesium aluminium calcium zinc lithium; oxide; {metal} + oxygen -> {m} {x}
precipitation; silver lead(II); chloride iodide bromide; {m} nitrate + potassium {x} -> {m} {x} + potassium nitrate
acid on oxide; copper(II) magnesium zinc iron(III); sulfate chloride nitrate; {m} oxide + {acid} -> {m} {x} + water
displacement; magnesium zinc aluminium iron(II); nitrate sulfate; {metal} + copper(II) {x} -> {m} {x} + copper
decomposition; calcium magnesium zinc barium; carbonate; {m} {x} -> {m} oxide + carbon dioxide""".split("\n")]
FAMILIES = {  # ending of the name, SMILES of the main group, and whether that may be anywhere in the chain
    "alkane": ("e", "", False), "alcohol": ("ol", "O", True), "carboxylic acid": ("oic acid", "(=O)O", False),
    "ester": ("", "(=O)O", False), "haloalkane": ("e", "", False), "amine": ("amine", "N", True),
    "ketone": ("one", "=O", True), "aldehyde": ("al", "=O", False)}
STEMS = "meth eth prop but pent hex hept oct non dec".split()
BRANCHES = {"methyl": ("C", 1), "ethyl": ("CC", 2)}  # SMILES, and how far from the ends: nearer it lengthens the chain
HALOGENS = {"chloro": ("Cl", 0), "bromo": ("Br", 0), "fluoro": ("F", 0), "iodo": ("I", 0)}


@cache
def atoms(formula):
    """How many atoms of each element a formula such as Ca3(PO4)2 has."""
    counts = Counter()
    for group, times, element, number in re.findall(r"\((\w+)\)(\d*)|([A-Z][a-z]?)(\d*)", formula):
        for inner, count in (atoms(group) if group else {element: 1}).items():
            counts[inner] += count * int(times or number or 1)
    return counts


def salt(cation, anion):
    """The formula of the salt of two ions, as few of each as balance their charges."""
    formula, ions = "", (IONS[cation], IONS[anion])
    for ion, charge in ions:
        count = lcm(ions[0][1], ions[1][1]) // charge
        formula += ion if count == 1 else f"({ion}){count}" if len(re.findall("[A-Z]", ion)) > 1 else f"{ion}{count}"
    return formula


FORMULAS = {f"{cation} {anion}": salt(cation, anion) for cation in IONS for anion in PARTNERS}
FORMULAS |= {acid: salt("hydrogen", anion) for anion, acid in ACIDS.items()}
FORMULAS |= {cation.partition("(")[0]: ion for cation, (ion, _) in IONS.items()}  # the metals themselves
FORMULAS |= {"water": "H2O", "carbon dioxide": "CO2", "oxygen": "O2", "hydrogen": "H2", "chlorine": "Cl2",
             "bromine": "Br2", "fluorine": "F2", "iodine": "I2"}


def organic(rng, families):
    """Name, formula, SMILES and family of a carbon chain with its main group and perhaps a branch."""
    family = skewed(rng, families)
    ending, group, inner = FAMILIES[family]
    first = 2 if family == "ketone" else 1  # chain[place] counts from the end nearer to the main group
    length = skewed(rng, range(2 * first - 1, 11))
    main = whole(rng, first, (length + 1) // 2) if inner else 1
    chain, prefix = [""] + ["C"] * length, ""
    chain[main] += group if main == 1 else f"({group})"
    branch, (smiles, margin) = skewed(rng, tuple((HALOGENS if family == "haloalkane" else BRANCHES).items()))
    if family == "haloalkane" or family != "ester" and length > 2 * margin and rng.random() < 0.6:
        # without a main group, or with that in the middle, the chain is counted from the end nearer to the branch
        place = whole(rng, 1 + margin, length - margin if group and 2 * main <= length else (length + 1) // 2)
        if not group or place != main:
            chain[place] += smiles if place == 1 else f"({smiles})"
            prefix = f"{place}-{branch}" if length > 2 else branch
    smiles = "".join(reversed(chain))
    name = prefix + STEMS[length - 1] + "an" + (f"-{main}-" if inner and length > 2 else "") + ending
    if family == "ester":
        alkyl = whole(rng, 1, 8)
        smiles, name = smiles + "C" * alkyl, f"{STEMS[alkyl - 1]}yl {name}oate"
    counts = Counter(re.findall("Cl|Br|[CNOFI]", smiles))
    bonds = 2 * smiles.count("=") + sum(counts[halogen] for halogen, _ in HALOGENS.values())
    counts["H"] = 2 * counts["C"] + 2 + counts["N"] - bonds
    formula = "".join(f"{atom}{counts[atom]}" if counts[atom] > 1 else atom
                      for atom in "C H Br Cl F I N O".split() if counts[atom])
    return name, formula, smiles, family


def compound(rng, bound):
    """One substance in one of many ways of writing about it."""
    if rng.random() < 0.7:
        page, (name, formula, smiles, family) = "{organic_card}", organic(rng, tuple(FAMILIES))
        bound.update(smiles=smiles, family=family)
    else:
        page, cation, anion = "{salt_card}", skewed(rng, METALS), skewed(rng, PARTNERS)
        name, formula = f"{cation} {anion}", FORMULAS[f"{cation} {anion}"]
        bound["charges"] = f"{IONS[cation][0]} {IONS[cation][1]}+ and {IONS[anion][0]} {IONS[anion][1]}-"
    parts, moles = atoms(formula).items(), whole(rng, 2, 20)
    mass = (sum(MASSES[element] * count for element, count in parts) + 5) // 10
    bound.update(name=name, formula=formula, mass=decimal(mass), moles=str(moles), grams=decimal(moles * mass),
                 count=", ".join(f"{count} {element}" for element, count in parts),
                 working=" + ".join(f"{count} x {decimal(MASSES[element], 3)}" for element, count in parts))
    return say(rng, page, bound)


@cache
def balanced(left, right):
    """The smallest whole coefficients of a reaction, by elimination: a row is an element, a column a substance."""
    columns = [atoms(formula) for formula in left + right]
    rows = [[column[element] * (1 if place < len(left) else -1) for place, column in enumerate(columns)]
            for element in sorted(set().union(*columns))]
    for place in range(len(columns) - 1):
        pivot = next(row for row in rows if row[place] and not any(row[:place]))
        rows = [row if row is pivot else [pivot[place] * x - row[place] * y for x, y in zip(row, pivot)]
                for row in rows]
    ratios = [next((-row[-1], row[place]) for row in rows if row[place]) for place in range(len(columns) - 1)]
    last = lcm(*(down // gcd(up, down) for up, down in ratios))
    return [last * up // down for up, down in ratios] + [last]


def reaction(rng, bound):
    """A balanced reaction in one of many ways of writing about it."""
    kind, cations, anions, words = skewed(rng, REACTIONS)
    cation, anion = skewed(rng, cations.split()), skewed(rng, anions.split())
    fuel, fuel_formula, _, _ = organic(rng, ("alkane", "alcohol", "ketone", "ester", "carboxylic acid"))
    bound.update(kind=kind, m=cation, x=anion, metal=cation.partition("(")[0], acid=ACIDS.get(anion), fuel=fuel,
                 halogen=anion[:-3] + "ine")
    sides = [side.split(" + ") for side in say(rng, words, bound).split(" -> ")]
    left, right = (tuple(FORMULAS.get(name, fuel_formula) for name in side) for side in sides)
    counts = balanced(left, right)
    parts = [f"{count} {formula}" if count > 1 else formula for count, formula in zip(counts, left + right)]
    tally = Counter()
    for count, formula in zip(counts, left):
        tally.update({element: count * number for element, number in atoms(formula).items()})
    bound.update(plain=f"{' + '.join(left)} -> {' + '.join(right)}", reactants=" and ".join(sides[0]),
                 products=" and ".join(sides[1]), tally=", ".join(f"{n} {element}" for element, n in tally.items()),
                 equation=f"{' + '.join(parts[:len(left)])} -> {' + '.join(parts[len(left):])}")
    return say(rng, "{reaction_page}", bound)


# ---- chat

def exchange(rng, bound):
    """A task and its right answer, laid out like the others of the document."""
    small, large = sorted((whole(rng, 2, 99), whole(rng, 2, 99)))
    number, day, minutes = whole(rng, 2, 12), whole(rng, 0, 6), whole(rng, 60, 1300)
    weekdays = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    words = several(rng, GRAMMAR["thing"] + GRAMMAR["animal"] + GRAMMAR["fruit"], whole(rng, 3, 6))
    verb = skewed(rng, GRAMMAR["handle"] + GRAMMAR["tend"] + GRAMMAR["idle"])
    values = dict(
        small=small, large=large, sum=small + large, difference=large - small, number=number, product=number * large,
        words=" ".join(words), sorted=" ".join(sorted(words)), reversed=" ".join(words[::-1]), count=len(words),
        first=words[0], second=words[1], last=words[-1], capitals=" ".join(words).upper(), verb=verb,
        plural=inflected(words[0], "s"), past=inflected(verb, "past"), day=weekdays[day],
        later_day=weekdays[(day + number) % 7], minutes=60 * number, clock=f"{minutes // 60}:{minutes % 60:02d}",
        later=f"{(minutes + large) // 60}:{(minutes + large) % 60:02d}")
    task = say(rng, "{task}", cast(rng) | {name: str(value) for name, value in values.items()})
    bound["question"], bound["answer"] = task.split(" => ")
    return say(rng, bound.setdefault("layout", skewed(rng, GRAMMAR["layout"])), bound)


GRAMMAR.update((rule.__name__, [rule]) for rule in (mine, code, figures, tune, lesson, compound, reaction, exchange))
