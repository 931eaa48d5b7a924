"""Processes that race for the lock of one folder, round by round.

    python -m tests.object_stores.race URL

Reads `NUMBER` of a round from standard input, tries to lock `URL/NUMBER`, and answers `won` or
`locked`; a winner keeps the lock until the next line, and then writes, as the end of a job would,
whether it still has it.
"""

import sys
from contextlib import ExitStack

from clipsieve.errors import Locked
from clipsieve.store.folder import OutputFolder
from clipsieve.store.lock_terms import LockTerms


def main() -> None:
    url, lease = sys.argv[1], float(sys.argv[2])
    OutputFolder.open(f"{url}/warm").shards()
    print("ready", flush=True)
    held = ExitStack()
    for line in sys.stdin:
        try:
            held.close()
        except Locked:
            print("lost", flush=True)
        held = ExitStack()
        word = line.strip()
        if not word:
            continue
        try:
            held.enter_context(OutputFolder.open(f"{url}/{word}").lock(LockTerms(lease)))
        except Locked:
            print("locked", flush=True)
        else:
            print("won", flush=True)


if __name__ == "__main__":
    main()
