"""The corpus `music`: tunes in ABC notation whose bars fill their meter, and true sentences about keys.

A note is told by its steps of the scale above the tonic: 0 is the tonic, 7 the one an octave higher.
"""
import re
from random import Random
from typing import NamedTuple

from data.embedded.grammar import COMMON, Lexicon, read_rules, say, skewed, whole

# ---- keys

FIFTHS = "Ab Eb Bb F C G D A E B F# C# G# D#".split()  # any seven in a row are the notes of a key
LOWEST = "C G F D Bb A Eb Ab".split()  # where such a row may begin, the usual ones first
QUALITIES = ["", "", "", "m", "m", "m", "dim"]  # of the chords on those seven: major, minor, diminished


class Mode(NamedTuple):
    name: str
    tonic: int  # its place among the seven fifths
    progressions: list[str]  # each eight chords for eight bars, by the step of the root


MODES = {  # by their suffix in ABC
    "": Mode("major", 1, ["00334044", "00534044", "03040344", "04053344"]),
    "m": Mode("minor", 4, ["00604644", "00534644", "03650644"]),
    "dor": Mode("Dorian", 3, ["00603666", "00060366", "06606066"]),
    "mix": Mode("Mixolydian", 2, ["00603666", "03060366", "00634066"]),
}


class Key(NamedTuple):
    mode: str  # its suffix in ABC
    name: str
    scale: list[str]  # its seven notes, from the tonic
    chords: list[str]  # the chord on each of these


def drawn_key(rng: Random) -> Key:
    """Draw a key."""
    lowest = FIFTHS.index(skewed(rng, LOWEST))
    suffix = skewed(rng, tuple(MODES))
    mode = MODES[suffix]

    # A whole tone is two fifths up, less an octave. Where the row ends, five fifths down make a half tone.
    places = [(mode.tonic + 2 * step) % 7 for step in range(7)]
    scale = [FIFTHS[lowest + place] for place in places]
    chords = [note + QUALITIES[place] for note, place in zip(scale, places)]
    return Key(suffix, f"{scale[0]} {mode.name}", scale, chords)


def lesson(rng: Random, lexicon: Lexicon) -> str:
    """Say a sentence of theory about some key."""
    key = drawn_key(rng)
    root = whole(rng, 0, 5)
    notes = [key.scale[(root + step) % 7] for step in (0, 2, 4)]
    lexicon.update(key=key.name, scale=" ".join(key.scale), chord=key.chords[root], notes=" ".join(notes),
                   fifth=key.scale[4])
    return say(rng, "{lesson_line}", lexicon)


# ---- tunes

class Dance(NamedTuple):
    meter: str
    unit: str  # the length of a note that has no number
    beats: int  # in a bar
    rhythms: list[str]  # of a beat, in ABC, where n is a note; the last one is one long note


FOURS = "nnnn n2nn nnn2 n2n2 n3n (3nnnn2 n4".split()
THREES = "nnn n2n nn2 n>nn n/2n/2nn n3".split()
TWOS = "n2 nn n>n n/2n/2n (3nnn n2".split()
DANCES = {
    "reel": Dance("4/4", "1/8", 2, FOURS),
    "jig": Dance("6/8", "1/8", 2, THREES),
    "waltz": Dance("3/4", "1/8", 3, TWOS),
    "hornpipe": Dance("4/4", "1/8", 4, "n>n nn n2 (3nnn n2".split()),
    "polka": Dance("2/4", "1/16", 2, FOURS),
    "slip jig": Dance("9/8", "1/8", 3, THREES),
    "air": Dance("3/4", "1/8", 3, TWOS),
    "march": Dance("4/4", "1/8", 2, FOURS),
}
FORMS = "abacabad abcdabcd aabcaabd abcbabcb ababcdcd".split()  # which motif each bar of a part plays
CREDITS = ["", "C:{name} {surname}\n", "C:trad.\n", "O:{town}\n", "S:{who}, {town}\n", "N:{event}\n",
           "Q:1/4={70-180}\n"]
PITCHES = "C, D, E, F, G, A, B, C D E F G A B c d e f g a b c' d' e' f' g' a' b'".split()  # upwards, in ABC

Beat = tuple[str, list[int]]  # a rhythm, and the step of each of its notes from the root of a chord


def tune(rng: Random, lexicon: Lexicon) -> str:
    """Write a tune in ABC, of two repeated parts, with sentences about it."""
    # Both parts share the dance, the key, and whether their chords are written.
    kind = skewed(rng, tuple(DANCES))
    dance = DANCES[kind]
    key = drawn_key(rng)
    with_chords = rng.random() < 0.6

    # The second part starts higher, and keeps two motifs of the first, so that both are heard as one tune.
    higher = whole(rng, 1, 4)
    motifs = {name: motif(rng, dance, 0) for name in "cdab"}
    parts = part(rng, dance, key, motifs, 0)
    motifs |= {name: motif(rng, dance, higher) for name in "ab"}
    parts += part(rng, dance, key, motifs, higher)
    if not with_chords:
        parts = re.sub('"[^"]*"', "", parts)

    # The page talks about the tune, and so finds its title, its key and the tune itself in the lexicon.
    lexicon.update(dance=kind, key=key.name, chords=", ".join(key.chords[:4]), scale=" ".join(key.scale))
    lexicon["title"] = say(rng, "{Tune_name.title}", lexicon)
    head = "X:{1-999}\nT:{title}\n" + skewed(rng, CREDITS)
    head += f"R:{kind}\nM:{dance.meter}\nL:{dance.unit}\nK:{key.scale[0]}{key.mode}\n"
    lexicon["abc"] = say(rng, head, lexicon) + parts
    return say(rng, "{tune_page}", lexicon)


def part(rng: Random, dance: Dance, key: Key, motifs: dict[str, list[Beat]], start: int) -> str:
    """Write a repeated part of eight bars, each of them a motif set on the chord of the bar."""
    # Motifs and chords are drawn apart, so that a motif comes back on another chord.
    form = skewed(rng, FORMS)
    progression = skewed(rng, MODES[key.mode].progressions)

    # Players vary what they repeat: now and then the last beat of a motif is another one.
    played = []
    for name in form:
        beats = motifs[name]
        if rng.random() < 0.1:
            beats = beats[:-1] + [beat(rng, dance, start)]
        played.append(beats)
    bars = [bar(rng, key, beats, int(root)) for beats, root in zip(played, progression)]

    # The part ends on a long tonic, in the second ending where it has two.
    close = bar(rng, key, played[-1][:-1] + [(dance.rhythms[-1], [0])], 0)
    ending = f"| {close} :|"
    if rng.random() < 0.4:
        ending = f"|1 {bars[7]} :|2 {close} |]"
    return f"|: {' | '.join(bars[:4])} |\n{' | '.join(bars[4:7])} {ending}\n"


def motif(rng: Random, dance: Dance, start: int) -> list[Beat]:
    """Draw the beats of a bar."""
    return [beat(rng, dance, start) for _ in range(dance.beats)]


def beat(rng: Random, dance: Dance, start: int) -> Beat:
    """Draw a rhythm, and a melody in small steps that begins `start` above a note of the chord."""
    rhythm = skewed(rng, dance.rhythms)
    melody = [start + skewed(rng, (0, 2, 4, 7))]
    while len(melody) < rhythm.count("n"):
        melody.append(melody[-1] + skewed(rng, (1, -1, 2, -2, 3)))
    return rhythm, melody


def bar(rng: Random, key: Key, beats: list[Beat], root: int) -> str:
    """Write a bar in ABC, with its chord: `beats` set on the chord that is `root` steps above the tonic."""
    # In minor the chord on the fifth note is made major by raising the seventh. In the other modes the fourth
    # is raised now and then, as an ornament.
    chord, raised = key.chords[root], None
    if key.mode == "m":
        if root == 4:
            chord, raised = key.scale[4], 6
    elif rng.random() < 0.04:
        raised = 3

    # The upper roots are taken an octave down, to keep the tune near the middle of its range.
    base = root if root <= 3 else root - 7
    played = []
    for rhythm, melody in beats:
        for step in melody:
            rhythm = rhythm.replace("n", note(key, base + step, raised), 1)
        played.append(rhythm)
    return f'"{chord}"' + " ".join(played)


def note(key: Key, step: int, raised: int | None) -> str:
    """Write a note in ABC, a half tone higher if it is the one that is `raised` steps above the tonic."""
    # A melody that leaves the range of the tune goes on an octave away.
    while step < -3:
        step += 7
    while step > 9:
        step -= 7

    # ABC takes the flats and sharps from the key. Only a raised note has a sign, a natural where it was flat.
    tonic = PITCHES.index(key.scale[0][0])
    accidental = ""
    if step % 7 == raised:
        accidental = "=" if "b" in key.scale[raised] else "^"
    return accidental + PITCHES[tonic + step]


RULES = COMMON | read_rules("music.txt") | {"tune": [tune], "lesson": [lesson]}
