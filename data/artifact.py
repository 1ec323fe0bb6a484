"""What a stage leaves: a folder named by what made it, Parquet shards, and a manifest written last.

A folder with a manifest is finished and stays as it is; one without is where an interrupted stage goes on. Rows are
parted by side, so that the folder is a dataset with splits, then by the hash of their id, and cut every `SHARD_ROWS`;
each shard is named by its content, so the same rows give the same files on every machine.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UnderstudyError
from .fingerprint import digest
from .storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

PARTITIONS = 8
SHARD_ROWS = 8192
_TOGETHER = 256
"""Rows that wait as Python objects before they are packed into columns, a tenth of the memory."""

WHOLE = "part"
"""Of rows that have no side."""


def stage_path(key: str, fingerprint: str) -> str:
    """Where a stage's output lies below a root; of `train:small` as of `train`."""
    return f"stages/{key.partition(':')[0]}-{fingerprint}"


class Artifact:
    """The folder ``stages/<stage>-<fingerprint>`` of a root."""

    def __init__(self, storage: Storage, stage: str, fingerprint: str) -> None:
        self.storage = storage
        self.stage = stage
        self.fingerprint = fingerprint
        self.path = stage_path(stage, fingerprint)

    @property
    def folder(self) -> Path:
        """The same place on the local disk, with what is there, for libraries that read and write files themselves."""
        return self.storage.fetch(self.path)

    def manifest(self) -> dict[str, Any] | None:
        """What the finished stage wrote; None where it is unfinished."""
        try:
            manifest: dict[str, Any] = json.loads(self.storage.read(f"{self.path}/manifest.json"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise self._broken("manifest.json", "not valid JSON") from None
        return manifest

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, last of all: from here on the folder stays as it is."""
        self.storage.keep(self.path)
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
        self.storage.replace(f"{self.path}/manifest.json", text.encode())

    def reopen(self) -> None:
        """Take the manifest away: what was finished is done again."""
        self.storage.delete(f"{self.path}/manifest.json")

    def rows(self, config: str, *sides: str) -> Iterator[dict[str, Any]]:
        """Rows of one config on the sides asked for, or on all; partition by partition, each in the order written.

        Raises:
            UnderstudyError: a shard is gone, or is not what was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        manifest = self.manifest()
        assert manifest is not None, f"{self.path} is read before it is finished"
        for shard in manifest["shards"].get(config, ()):
            if sides and side_of_shard(shard["path"]) not in sides:
                continue
            try:
                data = self.storage.read(f"{self.path}/{shard['path']}")
            except FileNotFoundError:
                raise self._broken(shard["path"], "no such file") from None
            if digest(data) != shard["sha256"]:
                raise self._broken(shard["path"], "the content is not what was written")
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                for batch in file.iter_batches(2048):
                    columns = [_values(column) for column in batch.columns]
                    yield from (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))

    def _broken(self, name: str, found: str) -> UnderstudyError:
        place = self.storage.place(self.path)
        return UnderstudyError(
            f"{place}/{name}: {found}; delete {place} and run again: what was paid for is in the ledger"
        )


class _Shard:
    """Rows of one partition that are not written yet, packed by and by."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._packed: list[pa.RecordBatch] = []
        self._waiting: list[Mapping[str, Any]] = []
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) == _TOGETHER:
            self._pack()

    def table(self) -> pa.Table:
        """All of them, in one piece."""
        import pyarrow as pa

        self._pack()
        return pa.Table.from_batches(self._packed, self._schema).combine_chunks()

    def _pack(self) -> None:
        import pyarrow as pa

        self._packed.append(pa.RecordBatch.from_pylist(self._waiting, self._schema))
        self._waiting = []


def side_of_shard(path: str) -> str:
    """The side whose rows a shard holds, by its path."""
    return path.rpartition("/")[2].partition("-")[0]


def _values(column: pa.Array) -> list[Any]:
    """A column's values; token ids and their log-probabilities, hundreds a row, as views of one numpy array.

    As lists of Python's own numbers they are read thirteen times as slowly (measured).
    """
    if not _is_long(column.type):
        values: list[Any] = column.to_pylist()
        return values
    flat, ends = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy().tolist()
    there = column.is_valid().to_numpy(zero_copy_only=False).tolist()
    return [flat[start:end] if known else None for start, end, known in zip(ends[:-1], ends[1:], there, strict=True)]


def _is_long(kind: pa.DataType) -> bool:
    """Whether a column holds lists of token ids or of their log-probabilities."""
    import pyarrow as pa

    return kind in (pa.list_(pa.int32()), pa.list_(pa.float16()))


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind))


class ShardWriter:
    """Writes the rows of one config; memory holds at most one unfinished shard per partition."""

    def __init__(self, artifact: Artifact, config: str, schema: pa.Schema) -> None:
        self._artifact = artifact
        self._config = config
        self._schema = schema
        self._open: dict[tuple[str, int], _Shard] = {}
        self._shards: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        self.rows = 0

    def add(self, row: Mapping[str, Any], side: str = WHOLE) -> None:
        """Add a row; its partition is decided by its side and its ``id``."""
        partition = side, int(digest(row["id"].encode())[:8], 16) % PARTITIONS
        shard = self._open.setdefault(partition, _Shard(self._schema))
        shard.add(row)
        self.rows += 1
        if shard.rows == SHARD_ROWS:
            self._cut(partition)

    def close(self) -> list[dict[str, Any]]:
        """Write what is open; returns path, rows and digest of every shard, in reading order."""
        for partition in list(self._open):
            self._cut(partition)
        return [shard for _, shards in sorted(self._shards.items()) for shard in shards]

    def _cut(self, partition: tuple[str, int]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        shard, written = self._open.pop(partition), pa.BufferOutputStream()
        pq.write_table(shard.table(), written, compression="zstd", **self._encoding())
        data = written.getvalue().to_pybytes()
        content, (side, number) = digest(data), partition
        path = f"{self._config}/{side}-{number:02d}-{content[:16]}.parquet"
        self._artifact.storage.replace(f"{self._artifact.path}/{path}", data)
        self._shards[partition].append({"path": path, "rows": shard.rows, "sha256": content})

    def _encoding(self) -> dict[str, Any]:
        """Long lists of numbers by their bytes, which compresses them best; dictionaries for all else."""
        long = {field.name for field in self._schema if _is_long(field.type)}
        if not long:
            return {}
        names = [f"{field.name}.list.element" if _is_list(field.type) else field.name for field in self._schema]
        split = [name for name in names if name.partition(".")[0] in long]
        return {"use_dictionary": [name for name in names if name not in split], "use_byte_stream_split": split}
