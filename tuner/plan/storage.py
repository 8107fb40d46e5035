"""The section `storage` of a search: how much its run directory may hold. Also sizes as text, such as 50 GB.

`tuner.runs.storage_watch` keeps a run within it.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from trainables.config.trial import Section

SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?(MB|GB|TB)")
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
LEAST = 10**6  # bytes: a journal alone may take that


def _size(given: object) -> str:
    """Checks a size as it is written; a number without a unit could be meant in any."""
    if not isinstance(given, str) or not SIZE.fullmatch(given) or bytes_of(given) < LEAST:
        raise ValueError("must be a size with its unit, of at least 1 MB, such as 500 MB, 50 GB or 1.5 TB")
    return given


def bytes_of(size: str) -> int:
    """The bytes of a size such as "50 GB"; units are powers of 1000, as discs have them."""
    match = SIZE.fullmatch(size)
    assert match is not None
    return round(float(match[1]) * UNITS[match[2]])


def as_size(count: float) -> str:
    """A number of bytes for people, such as "1.5 GB"."""
    unit = next((unit for unit in ("TB", "GB") if count >= UNITS[unit]), "MB")
    return f"{count / UNITS[unit]:.3g} {unit}"


class Storage(Section):
    """What a run may take of its disc."""

    limit: Annotated[str, BeforeValidator(_size), Field(json_schema_extra={"format": "size"})] | None = None
    """Cap on what the run directory holds: checkpoints, logs, TensorBoard and journal. Without one there is no cap.

    Checkpoints of ended trials are deleted for it: first the older ones of a trial, then all those of the worst trials.
    Those of the best trials, and of trials that have not ended, are kept; so are the journal, curves and logs.
    """

    @property
    def limit_bytes(self) -> int | None:
        return None if self.limit is None else bytes_of(self.limit)
