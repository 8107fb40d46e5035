"""One file a data set. A file says whether it `NEEDS_ROOT` and `RESIZES` to `data.image_size`, which `VIEWS` suit it, and how it is read.

`check(data)` is the number of stored train images; it raises `UserError` for a folder that is missing or empty. It is asked before
anything starts, so it must be quick. A split is "train" or "test".
`source(data, split)` is a text that changes when the stored images change, or None where reading is as quick as a cache.
`read(data, split)` yields chunks (images uint8 [n, H, W, C], labels int64 [n]).
"""

from collections.abc import Iterator

import numpy as np

Chunk = tuple[np.ndarray, np.ndarray]
Chunks = Iterator[Chunk]
