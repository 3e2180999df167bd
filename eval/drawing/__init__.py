"""Figures and pages: what analyses and the report draw with."""
