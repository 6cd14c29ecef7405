"""MLflow's runs as the run store that ends are written to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import RunStatus, RunTag
from mlflow.exceptions import MlflowException

from mlflow_exec.runtime.end import RunRecord


class MlflowRunStore:
    """A `RunStore` over MLflow's own client: any tracking server or local store."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def read(self, run_id: str) -> RunRecord:
        """See `RunStore.read`."""
        run = self._client.get_run(run_id)
        return RunRecord(run.info.status, dict(run.data.tags), run.info.start_time or 0)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """See `RunStore.set_tags`; all tags go in one request."""
        self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def delete_tags(self, run_id: str, keys: Sequence[str]) -> None:
        """See `RunStore.delete_tags`."""
        for key in keys:
            try:
                self._client.delete_tag(run_id, key)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise

    def set_status(self, run_id: str, status: str, end_time_ms: int | None) -> None:
        """See `RunStore.set_status`."""
        # The client's own ways to it read the run once more, and print its address.
        store = self._client._tracking_client.store
        state = RunStatus.from_string(status)
        if end_time_ms is None and RunStatus.is_terminated(state):
            end_time_ms = int(time.time() * 1000)
        store.update_run_info(run_id, state, end_time_ms, run_name=None)
