"""The language of the embedded world: its words, and the shapes that its clauses can take.

It is a small English of reviews. Every word has one kind, so a clause is a row of kinds ("the plot was
never dull" is "the PART was never ADJ"), and a clause is correct when its row is in a table. The writer
(world.py) picks a row and fills it; the gold reward (gold.py) reads the kinds and looks the row up. Both
therefore agree by construction on what the language is, and the reward is exact.

A text is its words and punctuation marks, separated by single spaces.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Topic:
    """What a review can be about: its names, its parts, and the judgements that fit nothing else."""

    nouns: tuple[str, ...]
    parts: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Word:
    """What one word is: its kind; the sign of its judgement or 0; the topic it belongs to or nothing."""

    kind: str
    sign: int = 0
    topic: str = ""


TOPICS = {
    "film": Topic(
        nouns=("film", "movie"),
        parts=("plot", "acting", "camera", "script"),
        good=("gripping", "touching"),
        bad=("predictable", "overlong"),
    ),
    "book": Topic(
        nouns=("book", "novel"),
        parts=("story", "prose", "narrator", "dialogue"),
        good=("poetic", "readable"),
        bad=("wordy", "shallow"),
    ),
    "meal": Topic(
        nouns=("meal", "dinner"),
        parts=("soup", "bread", "sauce", "dessert"),
        good=("tasty", "delicious"),
        bad=("bland", "greasy"),
    ),
    "hotel": Topic(
        nouns=("hotel", "inn"),
        parts=("room", "bed", "lobby", "pool"),
        good=("cosy", "spotless"),
        bad=("noisy", "dirty"),
    ),
    "game": Topic(
        nouns=("game", "puzzle"),
        parts=("map", "tutorial", "quest", "soundtrack"),
        good=("addictive", "playable"),
        bad=("glitchy", "unfair"),
    ),
    "concert": Topic(
        nouns=("concert", "show"),
        parts=("singer", "band", "stage", "rhythm"),
        good=("lively", "tuneful"),
        bad=("shrill", "deafening"),
    ),
    "phone": Topic(
        nouns=("phone", "handset"),
        parts=("screen", "battery", "speaker", "keypad"),
        good=("responsive", "durable"),
        bad=("laggy", "fragile"),
    ),
    "museum": Topic(
        nouns=("museum", "gallery"),
        parts=("guide", "garden", "exhibit", "tour"),
        good=("inspiring", "informative"),
        bad=("crowded", "dusty"),
    ),
}

# Words that judge, in pairs of (good, bad).
JUDGEMENTS = {
    "ADJ": (
        "good great excellent wonderful lovely brilliant superb pleasant clever fine splendid delightful",
        "bad awful terrible dull poor weak dreadful clumsy boring horrible lousy tedious",
    ),
    "WELL": ("well beautifully nicely perfectly smoothly", "badly poorly awkwardly terribly clumsily"),
    "CHARMED": ("charmed impressed delighted amused pleased", "bored annoyed disappointed confused irritated"),
    "CHARM": ("charm impress delight amuse please", "bore annoy disappoint confuse irritate"),
    "LOVED": ("loved liked enjoyed admired adored", "hated disliked regretted despised resented"),
    "LOVE": ("love like enjoy admire adore", "hate dislike regret despise resent"),
    "RECOMMEND": ("recommend revisit choose", "avoid skip refuse"),
}

# Words that do not judge.
PLAIN = {
    "VERY": "very extremely remarkably",
    "REALLY": "really truly",
    "SURELY": "surely certainly",
    "FAIRLY": "fairly slightly somewhat",
    "SEEMED": "felt seemed proved",
    "SEEM": "feel seem prove",
    "WORKED": "worked started ended",
    "WORK": "work start end",
    "PERSON": "i we everyone friends critics",
    "WHOM": "me us them",
}

# What a thing does; the continuation of a prompt begins with one of these.
PREDICATES = (
    "was ADJ",
    "was VERY ADJ",
    "was REALLY ADJ",
    "was FAIRLY ADJ",
    "was ADJ and ADJ",
    "was not ADJ",
    "was not VERY ADJ",
    "was never ADJ",
    "SEEMED ADJ",
    "SEEMED VERY ADJ",
    "SEEMED FAIRLY ADJ",
    "never SEEMED ADJ",
    "did not SEEM ADJ",
    "CHARMED WHOM",
    "REALLY CHARMED WHOM",
    "never CHARMED WHOM",
    "did not CHARM WHOM",
    "WORKED WELL",
    "WORKED VERY WELL",
    "never WORKED WELL",
    "did not WORK WELL",
)
# What people think of a thing.
OPINIONS = (
    "PERSON LOVED",
    "PERSON REALLY LOVED",
    "PERSON never LOVED",
    "PERSON did not LOVE",
    "nobody LOVED",
)
ADVICE = (
    "PERSON would RECOMMEND",
    "PERSON would SURELY RECOMMEND",
    "PERSON would not RECOMMEND",
    "nobody would RECOMMEND",
)
THINGS = ("it", "the NOUN", "the PART", "its PART")
CLAUSES = frozenset(
    [f"{thing} {does}" for thing in THINGS for does in PREDICATES]
    + [f"{think} {thing}" for thing in THINGS for think in OPINIONS + ADVICE]
)

NEGATIONS = frozenset(("not", "never", "nobody"))
DEGREES = {"VERY": 1.0, "REALLY": 1.0, "SURELY": 1.0, "FAIRLY": 0.5}

# How two clauses of one sentence are joined, and whether their signs must agree (1) or differ (-1).
# After a comma, but "because" takes none; "although" stands before the first clause.
LINKS = {"and": 1, "so": 1, "because": 1, "but": -1, "although": -1}

# How a prompt starts: an opener or none, a determiner, a modifier or none, and the topic's noun.
LEADS = ("honestly", "overall", "in short", "to be fair", "looking back", "on the whole", "in my opinion", "this time")
OPENERS = ("also", "besides", "moreover", "in addition")
DETERMINERS = ("the", "this", "that", "our")
MODIFIERS = ("new", "old", "first", "latest", "local", "famous", "small", "popular", "foreign")

NOUN_TOPIC = {noun: name for name, topic in TOPICS.items() for noun in topic.nouns}


def words() -> list[str]:
    """List the whole vocabulary, punctuation marks included, in alphabetical order."""
    return sorted(LEXICON)


def tokens(text: str) -> list[str]:
    """Split a text into its words and punctuation marks."""
    return text.split()


def _lexicon() -> dict[str, Word]:
    found: dict[str, Word] = {}
    # Words of fixed phrases are their own kind, unless a later line knows them better.
    shapes = [*PREDICATES, *OPINIONS, *ADVICE, *THINGS, *LINKS, *LEADS, *OPENERS, *DETERMINERS, ", ."]
    literal = {word for shape in shapes for word in shape.split() if not word.isupper()}
    found.update({word: Word(kind=word) for word in literal})
    found.update({word: Word(kind="MODIFIER") for word in MODIFIERS})
    for kind, line in PLAIN.items():
        found.update({word: Word(kind=kind) for word in line.split()})
    for kind, (good, bad) in JUDGEMENTS.items():
        found.update({word: Word(kind=kind, sign=1) for word in good.split()})
        found.update({word: Word(kind=kind, sign=-1) for word in bad.split()})
    for name, topic in TOPICS.items():
        found.update({word: Word(kind="NOUN", topic=name) for word in topic.nouns})
        found.update({word: Word(kind="PART", topic=name) for word in topic.parts})
        found.update({word: Word(kind="ADJ", sign=1, topic=name) for word in topic.good})
        found.update({word: Word(kind="ADJ", sign=-1, topic=name) for word in topic.bad})
    return found


LEXICON = _lexicon()
