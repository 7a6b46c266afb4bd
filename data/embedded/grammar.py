"""The grammar that makes the sentences of all four corpora.

A sentence is a text with slots, such as "{Pal} found {adj.a} {thing}." A lexicon has what a slot stands for:

    a text  stays the same in the whole document: its people, places and numbers
    a rule  is a list to draw from at every use, of words, of phrases with slots of their own, or of functions
            that take the random generator and the lexicon and return a text
"""
import re
from functools import cache
from pathlib import Path
from random import Random
from string import capwords

Lexicon = dict[str, str | list]


# ---- chance

def whole(rng: Random, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    return low + int((high - low + 1) * rng.random())


def skewed(rng: Random, items):
    """Draw an item, the early ones more often: the k-th about in proportion to 1 / sqrt(k)."""
    u = rng.random()
    return items[int(len(items) * u * u)]


def several(rng: Random, items, count: int) -> list:
    """Draw `count` different items in random order."""
    pool = list(items)
    return [pool.pop(whole(rng, 0, len(pool) - 1)) for _ in range(count)]


# ---- the forms of words

DOUBLING, DOUBLED = "^([^aeiou]*[aeiou])([^aeiouwxy])$", r"\1\2\2"  # verbs like stop double their last letter
ENDINGS = {  # of regular words; the first pattern that fits counts, and the last one fits all
    "s": [("(s|x|z|ch|sh)$", r"\1es"), ("([^aeiou])y$", r"\1ies"), ("$", "s")],
    "past": [("e$", "ed"), ("([^aeiou])y$", r"\1ied"), (DOUBLING, DOUBLED + "ed"), ("$", "ed")],
    "ing": [("([^e])e$", r"\1ing"), (DOUBLING, DOUBLED + "ing"), ("$", "ing")],
}


def word_pairs(text: str) -> dict[str, str]:
    """Read "mouse mice, goose geese" as a dictionary."""
    return dict(pair.split() for pair in text.split(","))


IRREGULAR = {
    "s": word_pairs("""
        mouse mice, goose geese, sheep sheep, fish fish, knife knives, loaf loaves, scarf scarves,
        shelf shelves, potato potatoes, tomato tomatoes, go goes"""),
    "past": word_pairs("""
        find found, lose lost, hide hid, sell sold, buy bought, draw drew, keep kept, bring brought,
        take took, see saw, forget forgot, leave left, hold held, steal stole, choose chose, go went, run ran,
        eat ate, tell told, give gave, sit sat, sleep slept, sing sang, write wrote, read read, feed fed,
        catch caught, meet met, put put, shut shut, build built, throw threw, break broke, sweep swept,
        dig dug, speak spoke, light lit, pay paid"""),
    "ing": word_pairs("forget forgetting"),
}


@cache
def inflected(word: str, form: str) -> str:
    """Put a noun or a verb into the form "s" (mice, goes), "past" or "ing"."""
    if word in IRREGULAR[form]:
        return IRREGULAR[form][word]
    for pattern, ending in ENDINGS[form]:
        if re.search(pattern, word):
            return re.sub(pattern, ending, word, count=1)


def formed(text: str, form: str) -> str:
    """Put `text` into a form: with its article ("a"), as a "title", or inflected.

    A noun ("plural") is inflected at the last word of the text, a verb ("s", "past", "ing") at the first.
    """
    if form == "a":
        return ("an " if text[0] in "aeiou" else "a ") + text
    if form == "title":
        return capwords(text)
    if form == "plural":
        return re.sub(r"\w+$", lambda noun: inflected(noun[0], "s"), text)
    return re.sub(r"^\w+", lambda verb: inflected(verb[0], form), text)


def decimal(number: int, places: int = 2) -> str:
    """Write a number of hundredths, or of the unit of so many decimal places, with its decimal point."""
    unit = 10 ** places
    return f"{number // unit}.{number % unit:0{places}d}"


# ---- sentences

def read_rules(file: str) -> Lexicon:
    """Read the rules of a text file in this folder.

    A rule is `<name> word word ...` or `<name> | phrase | phrase ...`, where // stands for a new line. How
    the file itself is broken into lines does not matter.
    """
    text = " ".join(Path(__file__).with_name(file).read_text().split())
    rules = {}
    for name, body in re.findall(r"<(\w+)> ([^<]*)", text):
        if body.startswith("| "):
            phrases = body.removeprefix("| ").split(" | ")
            rules[name] = [re.sub("(^| )// ?", "\n", phrase.strip()) for phrase in phrases]
        else:
            rules[name] = body.split()
    return rules


COMMON = read_rules("common.txt")
SLOT = re.compile(r"{(?:(\w+)=)?([\w-]+)(?:\.(\w+))?}")  # {name}, {name.form}, {keep=name}, {keep=name.form}


def say(rng: Random, text: str, lexicon: Lexicon) -> str:
    """Fill the slots of `text`.

    {adj} says what the lexicon has for adj, {Adj} says it with a capital, {2-9} says a number from 2 to 9.
    {adj.a}, {thing.plural} and {do.past} put it into that form, see `formed`. {x=adj} also keeps it in the
    lexicon as x, so that {x} says the same again.
    """
    # Slots are filled from left to right, so that what one keeps is there for the next.
    def fill(slot: re.Match) -> str:
        keep, symbol, form = slot.groups()
        name = symbol[0].lower() + symbol[1:]
        words = meaning(rng, name, lexicon)
        if form:
            words = formed(words, form)
        if name != symbol:
            words = words[0].upper() + words[1:]
        if keep:
            lexicon[keep] = words
        return words

    return SLOT.sub(fill, text)


def meaning(rng: Random, name: str, lexicon: Lexicon) -> str:
    """Find what a slot says: a text of the lexicon, a draw from one of its rules, or a number such as 2-9."""
    if name not in lexicon:
        low, high = name.split("-")
        return str(whole(rng, int(low), int(high)))
    if isinstance(lexicon[name], str):
        return lexicon[name]

    # Most draws are plain words, in which a search for slots would be a waste of time.
    drawn = skewed(rng, lexicon[name])
    if callable(drawn):
        return drawn(rng, lexicon)
    return say(rng, drawn, lexicon) if "{" in drawn else drawn


def cast(rng: Random, first_person: bool = False) -> Lexicon:
    """Draw the people of a document: {who} is the hero ("I" if `first_person`), and {pal} is a friend.

    {she} (subject), {her} (object), {hers} (possessive) and {was} agree with the hero, whoever that is,
    as {he} {him} {his} do with the friend.
    """
    # There are two names of either kind, so that the hero and the friend never share one.
    girl, other_girl = several(rng, COMMON["girl"], 2)
    boy, other_boy = several(rng, COMMON["boy"], 2)

    # The hero may also be two people, lest there be no sentences in the plural.
    if first_person:
        hero = dict(who="I", she="I", her="me", hers="my", was="was")
    else:
        hero = skewed(rng, (
            dict(who=girl, she="she", her="her", hers="her", was="was"),
            dict(who=boy, she="he", her="him", hers="his", was="was"),
            dict(who=f"{girl} and {boy}", she="they", her="them", hers="their", was="were"),
        ))
    pal = skewed(rng, (
        dict(pal=other_girl, he="she", him="her", his="her"),
        dict(pal=other_boy, he="he", him="him", his="his"),
    ))
    return hero | pal
