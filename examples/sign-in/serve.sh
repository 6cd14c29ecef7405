#!/bin/sh
# serve.sh FOLDER PORT: MLflow's own tracking server with users, all of which it keeps in the folder.
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
port=$2
umask 077

# The server reads the first user's password when it makes its table of users; clients read it, too.
if [ ! -e "$folder/password" ]; then
    python -c 'import secrets; print(secrets.token_urlsafe(24), end="")' >"$folder/password"
fi
cat >"$folder/auth.ini" <<INI
[mlflow]
default_permission = READ
database_uri = sqlite:///$folder/users.db
admin_username = admin
admin_password = $(cat "$folder/password")
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI

export MLFLOW_AUTH_CONFIG_PATH="$folder/auth.ini"
# Signs the cookies of its pages; another one at each start is fine for one server.
MLFLOW_FLASK_SERVER_SECRET_KEY=$(python -c 'import secrets; print(secrets.token_hex(32))')
export MLFLOW_FLASK_SERVER_SECRET_KEY
exec mlflow server --app-name basic-auth --host 127.0.0.1 --port "$port" \
    --backend-store-uri "sqlite:///$folder/mlflow.db" --artifacts-destination "$folder/artifacts"
