"""The ground floor: what a mechanism is made of, and what it is told of a call."""
