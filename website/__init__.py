"""The site of the project: docs/, and pages that are made when it is built. `make site` builds it into build/site.

mkdocs reads `mkdocs.yml` and calls `hooks.py`. A page of a mechanism follows from the mechanism's file alone, a table
of results from the page that a benchmark wrote, the reference from docstrings: none of them is committed.
"""
