#!/bin/sh
# demo.sh VENV FOLDER: the main job on an embedded Ray, what is left of it, and its model served.
# Needs no server: runs are kept in FOLDER.
set -eu
bin=$(cd "$1/bin" && pwd)
PATH=$bin:$PATH
project=$(cd examples/wine && pwd)
mkdir -p "$2"
cd "$2"
export MLFLOW_TRACKING_URI="sqlite:///$PWD/mlflow.db"
# The demo is about jobs, not about telling anybody that it ran.
export MLFLOW_DISABLE_TELEMETRY=true

title() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

title "Train on Ray. None is configured, so one starts on this machine (half a minute)."
result=0
printf '$ %s\n' "mlflow run examples/wine --backend ray -P max_depth=4"
mlflow run "$project" --backend ray -P max_depth=4 || result=$?

run=$(mlflow-exec list --limit 1 --output json | python -c \
    'import json, sys; rows = json.load(sys.stdin); print(rows[0]["run_id"] if rows else "")')
if [ -z "$run" ]; then
    echo "The job was not submitted; the lines above say why." >&2
    exit 1
fi

title "Where it is, and why it failed if it did: asked from any machine, by the run."
show mlflow-exec status "$run"
title "Its log, kept on the run (the last lines)."
printf '$ %s\n' "mlflow-exec logs $run | tail -n 12"
mlflow-exec logs "$run" | tail -n 12
title "What it logged."
python - "$run" <<'PYTHON'
import sys

from mlflow import MlflowClient

client = MlflowClient()
run = client.get_run(sys.argv[1])
print("status    ", run.info.status)
print("params    ", dict(sorted(run.data.params.items())))
print("metrics   ", {name: round(value, 4) for name, value in sorted(run.data.metrics.items())})
print("artifacts ", *[item.path for item in client.list_artifacts(run.info.run_id)])
PYTHON

if [ "$result" = 0 ]; then
    title "Serve the model on the same Ray, and ask it."
    show mlflow deployments delete -t ray-serve --name wine
    show mlflow deployments create -t ray-serve --name wine -m "runs:/$run/model"
    python - "$run" >input.json <<'PYTHON'
import sys

import mlflow

print(mlflow.artifacts.load_text(f"runs:/{sys.argv[1]}/model/serving_input_example.json"))
PYTHON
    show mlflow deployments predict -t ray-serve --name wine -I input.json
    show mlflow-exec deployments revisions -t ray-serve -n wine
fi

title "Next"
cat <<TEXT
See it in MLflow's UI:   cd $2 && $bin/mlflow ui --backend-store-uri $MLFLOW_TRACKING_URI
Stop the Ray:            $bin/mlflow-exec ray stop
On your Kubernetes:      docs/kubernetes.md, docs/serving.md
TEXT
exit "$result"
