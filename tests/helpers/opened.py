"""Which files this process opens, as Python itself tells."""

import sys
from collections import Counter

OPENED: list[object] = []
sys.addaudithook(lambda event, args: OPENED.append(args[0]) if event == "open" else None)


def reads(path: object) -> int:
    """How often a file was opened since the list was cleared."""
    return Counter(map(str, OPENED))[str(path)]
