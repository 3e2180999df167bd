"""Subjects of evaluation: runs of this project and models of others, behind one interface."""
