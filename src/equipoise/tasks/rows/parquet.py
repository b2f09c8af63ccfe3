"""Parquet: compressed, with row groups as large as the file; rewritten once as JSON lines."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import IO

from equipoise.errors import DataError
from equipoise.tasks.progress import watched

BATCH = 64  # rows in memory at a time


def unpacked(path: Path) -> IO[bytes]:
    """A Parquet file's rows as JSON lines in a temporary file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the rows
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as source:
            batches = source.iter_batches(batch_size=BATCH, use_threads=False)
            for batch in watched(batches, f"unpacking {path.name}", -(-source.metadata.num_rows // BATCH)):
                spool.writelines(
                    json.dumps(row, default=_plain, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
                    for row in batch.to_pylist()
                )
    except (pa.ArrowException, OSError) as fault:
        raise DataError(f"{path}: cannot be read as Parquet: {str(fault)[:300]}") from fault
    spool.flush()
    if spool.tell() == 0:
        raise DataError(f"{path}: the file has no rows")
    return spool


def _plain(value: object) -> object:
    """What JSON has no word for: bytes as base64, dates and numbers as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
