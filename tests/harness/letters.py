"""How demonstrations of `decision` draw their letters, and which letter is right: for tests of what a policy does."""

from tasks.decision import CODE, FAVOURITES, LEANING, LETTERS, TABLE


def as_drawn(label: str) -> list[float]:
    """The probability of each of LETTERS behind `label`."""
    favourite, leaning = FAVOURITES.get(label), LEANING[label]
    return [(1 - leaning) / len(LETTERS) + leaning * (letter == favourite) for letter in LETTERS]


def right(question: str) -> int:
    """The place in LETTERS of the letter whose code is the right answer to a question."""
    return LETTERS.index(next(letter for letter in LETTERS if CODE[letter] == TABLE[question[:2]]))
