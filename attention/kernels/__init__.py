"""How mechanisms are run: one kernel serves every mechanism of a form."""
