"""The core of a search against recorded curves, in virtual time."""
