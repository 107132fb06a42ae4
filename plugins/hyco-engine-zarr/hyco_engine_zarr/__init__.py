"""Generated samples of hyco-engine in a zarr store. It imports torch and zarr only when it is built."""

from __future__ import annotations

from typing import Literal

from hyco_engine import Record, hookimpl, imported, option, options


@options
class ZarrOptions:
    """`[augmentation] cache.kind = "zarr"`."""

    url: str = option(
        "",
        help="where to keep samples: a folder, or what fsspec reads, such as s3://bucket/folder or memory://name; "
        "empty: the run's cache folder",
    )
    chunk_mb: float = option(
        1.0, help="largest size of what is written and read at once; a single sample may exceed it", unit="MB", gt=0.0
    )
    memory_mb: float = option(256.0, help="most that is held in memory of what was read", unit="MB", gt=0.0)
    compression: Literal["none", "zstd", "lz4"] = option(
        "none", help="zstd and lz4 with bytes shuffled; fields of noise-like floats hardly get smaller"
    )


@hookimpl
def hyco_caches() -> list[Record]:
    return [
        Record(
            kind="zarr",
            summary="generated samples in a zarr store: local folders, shared file systems, object storage",
            options=ZarrOptions,
            factory=imported("hyco_engine_zarr.backend"),
        )
    ]
