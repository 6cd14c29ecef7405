"""What a client of the cluster has: the `yarn` command, and REST as tests ask it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_YARN = """\
#!/bin/sh
# What tests need of Hadoop's own command of this name.
set -eu
conf=${{HADOOP_CONF_DIR:-{conf}}}
run() {{
    exec "{java}" -Xmx256m -XX:-UsePerfData -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \\
        --add-opens=java.base/java.lang=ALL-UNNAMED {options} -cp "$conf:{jars}/*" "$@"
}}
cli=org.apache.hadoop.yarn.client.cli
case ${{1:-}} in
classpath)
    if [ "${{2:-}}" = --glob ]; then
        printf '%s' "$conf"; printf ':%s' {jars}/*.jar; echo
    else
        echo "$conf:{jars}/*"
    fi ;;
application|applicationattempt|container|app) run $cli.ApplicationCLI "$@" ;;
logs) shift; run $cli.LogsCLI "$@" ;;
node) shift; run $cli.NodeCLI "$@" ;;
queue) shift; run $cli.QueueCLI "$@" ;;
rmadmin) shift; run $cli.RMAdminCLI "$@" ;;
fs) shift; run org.apache.hadoop.fs.FsShell "$@" ;;
version) run org.apache.hadoop.util.VersionInfo ;;
*) echo "yarn: ${{1:-}}: not in the tests' yarn" >&2; exit 1 ;;
esac
"""


def write_command(bin_dir: Path, *, conf: Path, jars: Path, java: Path, options: str = "") -> None:
    """Write `yarn` into a folder; it answers what Hadoop's does, `fs` like `hadoop fs`.

    Args:
        bin_dir: the folder, to be the first of PATH; made if need be.
        conf: the configuration without $HADOOP_CONF_DIR.
        jars: the folder of Hadoop's jars.
        java: the java to run.
        options: more of its command line's.
    """
    bin_dir.mkdir(parents=True, exist_ok=True)
    command = bin_dir / "yarn"
    command.write_text(_YARN.format(conf=conf, jars=jars, java=java, options=options))
    command.chmod(0o755)


def call(url: str, *, method: str = "GET", body: Any = None) -> Any:
    """Return the JSON of an answer, None when it is empty; any proxy of the machine is ignored.

    Raises:
        urllib.error.HTTPError: the answer says that it failed; holds the body.
        OSError: nobody answers.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None
