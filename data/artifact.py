"""What a stage leaves: a folder named by what made it, Parquet shards, and a manifest written last.

A folder with a manifest is finished and stays as it is; one without is where an interrupted stage goes on. Rows are
partitioned by the hash of their id and cut every `SHARD_ROWS`, and each shard is named by its content, so the same rows
give the same files on every machine.
"""

from __future__ import annotations

import json
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


class Artifact:
    """The folder ``stages/<stage>-<fingerprint>`` of a root."""

    def __init__(self, storage: Storage, stage: str, fingerprint: str) -> None:
        self.storage = storage
        self.stage = stage
        self.fingerprint = fingerprint
        self.path = f"stages/{stage}-{fingerprint}"

    @property
    def folder(self) -> Path:
        """The same place on the local disk, for libraries that write files themselves."""
        return self.storage.local(self.path)

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
        """Write the manifest: from here on the folder stays as it is."""
        text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
        self.storage.replace(f"{self.path}/manifest.json", text.encode())

    def rows(self, config: str) -> Iterator[dict[str, Any]]:
        """Rows of one config, partition by partition, each in the order written.

        Raises:
            UnderstudyError: a shard is gone, or is not what was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        manifest = self.manifest()
        assert manifest is not None, f"{self.path} is read before it is finished"
        for shard in manifest["shards"].get(config, ()):
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
        return UnderstudyError(
            f"{self.folder / name}: {found}; delete {self.folder} and run again: what was paid for is in the ledger"
        )


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
        self._open: list[list[Mapping[str, Any]]] = [[] for _ in range(PARTITIONS)]
        self._shards: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; its partition is decided by its ``id``."""
        partition = int(digest(row["id"].encode())[:8], 16) % PARTITIONS
        self._open[partition].append(row)
        self.rows += 1
        if len(self._open[partition]) == SHARD_ROWS:
            self._cut(partition)

    def close(self) -> list[dict[str, Any]]:
        """Write what is open; returns path, rows and digest of every shard, in reading order."""
        for partition, rows in enumerate(self._open):
            if rows:
                self._cut(partition)
        return [shard for shards in self._shards for shard in shards]

    def _cut(self, partition: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, self._open[partition] = self._open[partition], []
        written = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, self._schema), written, compression="zstd", **self._encoding())
        data = written.getvalue().to_pybytes()
        content = digest(data)
        path = f"{self._config}/part-{partition:02d}-{content[:16]}.parquet"
        self._artifact.storage.replace(f"{self._artifact.path}/{path}", data)
        self._shards[partition].append({"path": path, "rows": len(rows), "sha256": content})

    def _encoding(self) -> dict[str, Any]:
        """Long lists of numbers by their bytes, which compresses them best; dictionaries for all else."""
        long = {field.name for field in self._schema if _is_long(field.type)}
        if not long:
            return {}
        names = [f"{field.name}.list.element" if _is_list(field.type) else field.name for field in self._schema]
        split = [name for name in names if name.partition(".")[0] in long]
        return {"use_dictionary": [name for name in names if name not in split], "use_byte_stream_split": split}
