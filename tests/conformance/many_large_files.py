"""Prints how many bytes more are in memory while many large files are on their way in a bucket.

Linux only. Takes the URL of an S3.
"""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader, BytesIO, RawIOBase

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.storage.objects_s3 import S3Store
from mlflow_exec.uris import Location
from tests.object_servers import BUCKET

FILES = 16
SIZE_BYTES = 17 * 1024 * 1024


class Zeros(RawIOBase):
    """So many, of which nobody knows how many there are before."""

    def __init__(self) -> None:
        self._left = SIZE_BYTES

    def readable(self) -> bool:
        """See `RawIOBase`."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `RawIOBase`."""
        count = min(len(buffer), self._left)
        buffer[:count] = bytes(count)
        self._left -= count
        return count


def main(url: str) -> None:
    """Send all at a time, and read all at a time."""
    given = {"endpoint": url, "region": "us-east-1", "key_id": "someone", "key_secret": "secret"}
    credential = Credential("it", {name: Secret.of(v, "it") for name, v in given.items()})
    store = S3Store(Location.parse(f"fsspec+s3://{BUCKET}/memory"), credential)
    store.put("first", BytesIO(b"1"))
    before_bytes = _most_bytes()
    with ThreadPoolExecutor(FILES) as pool:
        list(pool.map(lambda n: store.put(f"{n}", BufferedReader(Zeros())), range(FILES)))
        print(_most_bytes() - before_bytes)
        sizes = pool.map(lambda n: sum(map(len, store.read(f"{n}"))), range(FILES))
        assert list(sizes) == [SIZE_BYTES] * FILES
    print(_most_bytes() - before_bytes)
    store.delete("")


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1])
