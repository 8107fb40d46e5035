"""What all tests share: examples of hypothesis have no deadline, for other work on the machine may hold one up."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
