"""The corpus `web`: what its rules in `web.txt` cannot say."""
from random import Random

from data.embedded.grammar import COMMON, Lexicon, cast, decimal, read_rules, say, whole


def mine(rng: Random, lexicon: Lexicon) -> str:
    """Tell events in the first person."""
    return say(rng, "{events} {events}", lexicon | cast(rng, first_person=True))


def code(rng: Random, lexicon: Lexicon) -> str:
    """Make up a password of any printable characters, so that `web` has every character of the others."""
    length = whole(rng, 4, 16)
    return "".join(chr(whole(rng, ord("!"), ord("~"))) for _ in range(length))


def figures(rng: Random, lexicon: Lexicon) -> str:
    """Write a bill or a timetable whose numbers are right."""
    count = whole(rng, 2, 12)
    cents = whole(rng, 20, 999)
    first = whole(rng, 300, 900)
    step = 5 * whole(rng, 1, 12)

    # The way between two stops takes as long as the time between two buses.
    facts = dict(
        count=str(count), price=decimal(cents), total=decimal(count * cents), minutes=str(step),
        stop_1=departures(first, step), stop_2=departures(first + step, step),
        stop_3=departures(first + 2 * step, step))
    return say(rng, "{bill_or_timetable}", lexicon | facts)


def departures(first: int, step: int) -> str:
    """List the times of five buses as a row of a table: the `first`, in minutes, and then every `step`."""
    times = range(first, first + 5 * step, step)
    return "".join(f"| {time // 60:02d}:{time % 60:02d} " for time in times)


RULES = COMMON | read_rules("web.txt") | {"mine": [mine], "code": [code], "figures": [figures]}
