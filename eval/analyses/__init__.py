"""The analyses: every module here is one, and its file name is its name; `eval/analysis.py` says what one declares."""
