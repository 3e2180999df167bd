"""Evaluation: what the papers claim, measured the same way on every mechanism.

`python -m eval <analysis> RUN [RUN ...]` opens each run (a run directory of this project, or a directory that holds a
Hugging Face causal language model), computes one analysis and writes `<run>/eval/<analysis>.json`. `analysis.py` says
what an analysis is and what the files look like, `subject.py` what a run can be asked.
"""
