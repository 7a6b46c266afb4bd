"""The corpus `chat`: tasks whose answers are computed."""
from random import Random

from data.embedded.grammar import COMMON, Lexicon, cast, inflected, read_rules, say, several, skewed, whole

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NOUNS = COMMON["thing"] + COMMON["animal"] + COMMON["fruit"]
VERBS = COMMON["handle"] + COMMON["tend"] + COMMON["idle"]


def exchange(rng: Random, lexicon: Lexicon) -> str:
    """Write a task and its right answer, laid out like the others of the document."""
    # A task has people and things of its own, lest its answer depend on what the document said before.
    facts = sums(rng) | word_games(rng) | cast(rng)
    task = say(rng, "{task}", RULES | facts)
    lexicon["question"], lexicon["answer"] = task.split(" => ")

    # The first exchange of a document decides for the others.
    layout = lexicon.setdefault("first_layout", skewed(rng, lexicon["layout"]))
    return say(rng, layout, lexicon)


def sums(rng: Random) -> Lexicon:
    """Draw numbers, a day and a time in minutes, and compute what the tasks ask about them."""
    small, large = sorted((whole(rng, 2, 99), whole(rng, 2, 99)))
    number = whole(rng, 2, 12)
    day = whole(rng, 0, 6)
    time = whole(rng, 60, 1300)
    return dict(
        small=str(small), large=str(large), sum=str(small + large), difference=str(large - small),
        number=str(number), product=str(number * large), minutes=str(60 * number),
        day=WEEKDAYS[day], later_day=WEEKDAYS[(day + number) % 7],
        clock=clock(time), later=clock(time + large))


def clock(time: int) -> str:
    """Write a time in minutes as on a clock, such as 9:05."""
    return f"{time // 60}:{time % 60:02d}"


def word_games(rng: Random) -> Lexicon:
    """Draw nouns and a verb, and compute what the tasks ask about them."""
    words = several(rng, NOUNS, whole(rng, 3, 6))
    verb = skewed(rng, VERBS)
    return dict(
        words=" ".join(words), count=str(len(words)), first=words[0], second=words[1], last=words[-1],
        sorted=" ".join(sorted(words)), reversed=" ".join(words[::-1]), capitals=" ".join(words).upper(),
        plural=inflected(words[0], "s"), verb=verb, past=inflected(verb, "past"))


RULES = COMMON | read_rules("chat.txt") | {"exchange": [exchange]}
