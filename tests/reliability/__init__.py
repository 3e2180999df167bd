"""What the project survives: faults are made on purpose, and each must end in the right answer or one clear line.

A module of this folder is one table of docs/reliability.md. It has

    a docstring       its first line is the table's heading, the rest says what is done and what counts as survived
    COUNT, FEW        how many trials the table takes, and how many the test of it
    trials(count, seed)
                      yields `Trial`s, the same for the same count and seed; its generator cleans up when it is closed

`python -m tests.reliability` lists the tables; `python -m tests.reliability attend --count 10000` makes one, and
`--write docs/reliability.md` puts it on the page.
"""

from tests.reliability.trial import Trial

__all__ = ["Trial"]
