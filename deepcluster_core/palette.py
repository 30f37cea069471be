"""Colours of the pictures that matplotlib draws."""

PAPER, INK, GREY = "#ffffff", "#222222", "#888888"
BLUE, ORANGE = "#2a6fbb", "#d9762b"
