"""Other people's texts on a terminal."""

_JOINER = "\u200d"  # between the parts of one emoji


def plain(text: str) -> str:
    """A text in one line that a terminal shows and does not obey: control characters and the like become marks."""
    return "".join(
        " " if character in "\n\r\t" else character if character.isprintable() or character == _JOINER else "\ufffd"
        for character in text
    )
