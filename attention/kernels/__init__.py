"""Kernels run mechanisms: each serves every mechanism of a form."""
