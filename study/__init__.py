"""Studies: a grid of runs, what is measured on them, and the claims that the numbers confirm or refute.

python -m study run configs/studies/tiny.yaml

runs what is left of one; it may be killed and called again at any time.
"""
