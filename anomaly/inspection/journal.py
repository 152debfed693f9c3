"""The verdict files. `verdicts.jsonl` is the journal: what stands there as a whole line is judged, for good.

verdicts.csv is written along with it, and made anew from it where an inspection goes on.
A line is appended by one unbuffered write; one that the disk had no room for is taken back.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from anomaly.records import Verdict

JOURNAL = "verdicts.jsonl"
TABLE = "verdicts.csv"
PARQUET = "verdicts.parquet"
COLUMNS = (
    "path", "decision", "image_score", "threshold", "p_value", "regions", "milliseconds", "error", "version",
    "group", "review_threshold", "size", "remark",
)  # fmt: skip
BATCH = 4096
"""Rows of a Parquet file that are held in memory at once."""


class Journal:
    """Appends verdicts to both files; those that an earlier run left are kept with `resume`."""

    def __init__(self, out: Path, *, resume: bool) -> None:
        """Raises OSError where `out` cannot be written."""
        self._out = out
        self.count = 0
        end = whole_lines(out / JOURNAL) if resume else 0
        self._files = {name: open(out / name, "ab", buffering=0) for name in (JOURNAL, TABLE)}  # noqa: SIM115
        self._files[JOURNAL].truncate(end)
        self._files[TABLE].truncate(0)
        self._row(TABLE, COLUMNS)
        for verdict in read_journal(out):
            self._table(verdict.to_dict())

    def append(self, fields: dict[str, Any]) -> None:
        """Record one verdict, whole or not at all. Raises OSError."""
        line = json.dumps(fields, ensure_ascii=False) + "\n"
        append_whole(self._files[JOURNAL], line.encode("utf-8", "backslashreplace"))
        self._table(fields)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _table(self, fields: dict[str, Any]) -> None:
        self._row(TABLE, [_cell(fields[column]) for column in COLUMNS])
        self.count += 1

    def _row(self, name: str, cells: Any) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(cells)
        append_whole(self._files[name], text.getvalue().encode("utf-8", "backslashreplace"))


def read_journal(out: Path) -> Iterator[Verdict]:
    """The verdicts of whole lines, in order; none where there is no journal."""
    end = whole_lines(out / JOURNAL)
    if not end:
        return
    with open(out / JOURNAL, "rb") as file:
        while file.tell() < end:
            yield Verdict.from_dict(json.loads(file.readline()))


def whole_lines(path: Path) -> int:
    """Bytes of the leading lines that are whole: ended, and JSON of a verdict. 0 where there is no file."""
    end = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                Verdict.from_dict(json.loads(line))
                end += len(line)
    except FileNotFoundError:
        return 0
    except (ValueError, TypeError, KeyError):
        pass
    return end


def write_parquet(out: Path) -> None:
    """The journal as one Parquet file, in bounded memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    region = pa.struct(
        [("box", pa.list_(pa.int32())), ("area", pa.int64()), ("peak", pa.float64()), ("mean", pa.float64())]
    )
    kinds = {
        "regions": pa.list_(region),
        "version": pa.int64(),
        "size": pa.list_(pa.int32()),
    } | dict.fromkeys(
        ("image_score", "threshold", "p_value", "review_threshold", "milliseconds"), pa.float64()
    )
    names = list(Verdict("", "error").to_dict())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    fresh = out / f"{PARQUET}.new"
    with pq.ParquetWriter(fresh, schema) as writer:
        rows: list[dict[str, Any]] = []
        for verdict in read_journal(out):
            rows.append({name: _encodable(value) for name, value in verdict.to_dict().items()})
            if len(rows) == BATCH:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, schema))
    os.replace(fresh, out / PARQUET)


def append_whole(file: IO[bytes], data: bytes) -> None:
    """Add `data` at the end, or leave the file as it was and raise OSError."""
    before = file.seek(0, os.SEEK_END)
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(before)
        raise


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in "=+-@\t\r":
        return "'" + value  # a spreadsheet would run it
    return value
