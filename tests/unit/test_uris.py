"""Artifact URIs: what each part means, and what is refused because it could mean something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.uri import append_to_uri_path

from mlflow_exec.errors import LocationError
from mlflow_exec.schemes import SCHEMES, Authority, Scheme
from mlflow_exec.server_policy import ALLOWED, check_in_server
from mlflow_exec.uris import Location, artifact_names

each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
LOCAL = (Authority.FILE, Authority.FOLDER)
with_authority = pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES if s.authority not in LOCAL], ids=lambda s: s.name
)
with_user = pytest.mark.parametrize(
    "scheme",
    [s for s in SCHEMES if s.authority in (Authority.HOST, Authority.BUCKET)],
    ids=lambda s: s.name,
)
PASSWORD = "a-password-that-nobody-may-see"

# The families of CVEs in MLflow's own parsing, as endings of any URI.
ATTACKS = {
    "a way up (CVE-2023-1177)": "/../secret",
    "a way up at the end (CVE-2023-2780)": "/a/..",
    "an encoded way up (CVE-2024-1483)": "/%2e%2e/secret",
    "a way up, encoded in part": "/.%2e/secret",
    "a way up, encoded twice (CVE-2024-1560)": "/%252e%252e/secret",
    "a way up, encoded three times": "/%25252e%25252e/secret",
    "a backslash (CVE-2023-2356)": "/..\\secret",
    "an encoded backslash": "/..%5csecret",
    "an encoded slash": "/a%2f..%2fsecret",
    "an encoded slash, twice": "/a%252f..%252fsecret",
    "a fragment (CVE-2024-3848)": "#/../../secret",
    "a fragment after a path": "/a#b",
    "parameters": ";/../secret",
    "a query with a way up (CVE-2023-6909)": "?/../../secret",
    "an option with a way up": "?cred=../secret",
    "an option that is not known": "?endpoint_url=http://evil.example",
    "an option given twice": "?cred=a&cred=b",
    "a chained file system": "/a::file:///etc",
    "a NUL": "/a%00b",
    "a raw NUL": "/a\0b",
    "a line break": "/a%0d%0aX-Header:1",
    "a raw line break": "/a\nb",
    "a tab": "/a\tb",
    "a dot": "/./a",
    "an empty name": "/a//b",
    "half of an escape": "/a%2",
    "what is not UTF-8": "/a%ff",
    "a mark that turns text round": "/a%E2%80%AEb",
}


@pytest.mark.parametrize(
    "uri",
    ["fsspec+file:///etc", "fsspec+local:///etc", "fsspec+memory://a/b", "fsspec+http://h/a",
     "fsspec+https://h/a", "fsspec+zip://a::file:///b.zip", "fsspec+simplecache::ftp://h/a",
     "simplecache::fsspec+ftp://h/a", "fsspec+ftp::file:///etc", "fsspec+://h/a"],
)  # fmt: skip
def test_other_file_systems_of_fsspec_are_not_reached(uri: str) -> None:
    with pytest.raises(LocationError, match=r"the scheme is none of|a host is needed"):
        Location.parse(uri)


@each_scheme
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_by_the_path_are_refused(scheme: Scheme, attack: str) -> None:
    with pytest.raises(LocationError):
        Location.parse(scheme.example + attack)


@with_authority
@pytest.mark.parametrize(
    "authority",
    ["", "a@b@c", "h:0", "h:65536", "h:port", "h:", "h h", "h\\evil.example", "h%2eexample", "höst",
     "[::1", "h:1:2", "u%3Aa-password@h"],
)  # fmt: skip
def test_attacks_by_the_host_are_refused(scheme: Scheme, authority: str) -> None:
    with pytest.raises(LocationError):
        Location.parse(f"{scheme.name}://{authority}/a")


@pytest.mark.parametrize("text", ["", "a", "/a", "nope://h/a", "file:///a", "-x://h", "a" * 5000])
def test_what_is_none_of_ours_is_refused(text: str) -> None:
    with pytest.raises(LocationError):
        Location.parse(text)


@each_scheme
def test_an_example_comes_back_as_it_is_and_is_joined_as_mlflow_joins(scheme: Scheme) -> None:
    location = Location.parse(scheme.example)
    assert str(location) == scheme.example
    joined = append_to_uri_path(scheme.example, "1", "run", "artifacts")
    assert Location.parse(joined) == location.join("1/run/artifacts")


@with_user
def test_parts(scheme: Scheme) -> None:
    found = Location.parse(f"{scheme.name.upper()}://me%40x@host:81/a%20b/%C3%BC/?cred=team-a")
    assert (found.scheme, found.user, found.host, found.port) == (scheme, "me@x", "host", 81)
    assert (found.names, found.cred) == (("a b", "ü"), "team-a")
    assert str(found) == f"{scheme.name}://me%40x@host:81/a%20b/%C3%BC?cred=team-a"


@with_user
def test_a_password_is_kept_and_never_shown(scheme: Scheme) -> None:
    text = f"{scheme.name}://me:{PASSWORD}@host/a/b"
    found = Location.parse(text)
    assert found.password is not None
    assert found.password.reveal() == PASSWORD
    assert PASSWORD not in f"{found} {found!r}"


@with_authority
@pytest.mark.parametrize(
    "rest",
    [
        f"me:{PASSWORD}@host/a/..", f"me:pa/{PASSWORD}@host/a",
        f"me:p@{PASSWORD}@host/a", f"host/a?user=me&password={PASSWORD}",
        f"host/a?sslpassword={PASSWORD}", f"me:{'x' * 250}{PASSWORD}{'x' * 250}@h h/a",
        f"me:{PASSWORD}@host:port/a",
    ],
)  # fmt: skip
def test_a_password_is_not_shown_where_a_uri_is_refused(scheme: Scheme, rest: str) -> None:
    with pytest.raises(LocationError) as told:
        Location.parse(f"{scheme.name}://{rest}")
    assert PASSWORD not in str(told.value)


def test_what_stands_before_the_namespace_is_a_bucket_and_no_user() -> None:
    found = Location.parse("oci://models@acme/a%20b?cred=team-a")
    assert (found.host, found.user, found.names) == ("models@acme", "", ("a b",))
    assert str(found) == "oci://models@acme/a%20b?cred=team-a"
    assert found.contains(found.join("c"))
    for other in ("oci://secrets@acme/a%20b", "oci://models@other/a%20b", "oci://Models@acme/a%20b"):
        assert not found.contains(Location.parse(other))
    for text in ("oci://acme/a", "oci://@acme/a", "oci://models@/a", "oci://a:b@acme/a",
                 "oci://a%40b@acme/a", "oci://models@acme:443/a", "oci:///a"):  # fmt: skip
        with pytest.raises(LocationError, match="a bucket and its namespace"):
            Location.parse(text)


def test_a_repository_is_one_however_it_is_written() -> None:
    found = Location.parse("hf://team/model/a%20b?cred=team-a")
    assert str(found) == "hf://models/team/model/a%20b?cred=team-a"
    assert Location.parse("hf://models/team/model/a%20b?cred=team-a") == found
    assert found.split() == (("team", "model"), ("a b",))
    at = Location.parse("hf://datasets/team/data@dev/a")
    assert (at.host, at.names) == ("datasets", ("team", "data@dev", "a"))
    assert str(at) == "hf://datasets/team/data@dev/a"
    assert not Location.parse("hf://datasets/team/data").contains(at)
    assert not Location.parse("hf://models/team/data@dev").contains(at)


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://datasets", "hf://datasets/team", "hf://model", "hf://buckets/team",
     "hf://buckets", "hf://buckets/team/bucket@main", "hf://buckets/team@x/bucket",
     "hf://datasets/team/data@refs/pr/1", "hf://datasets/team/data@", "hf://datasets/team/a@b@c",
     "hf://team@x/model", "hf://datasets:1/team/data", "hf://datasets/-team/data",
     "xet://user", "xet://user/repository@x/main"],
)  # fmt: skip
def test_what_is_no_repository_is_refused(text: str) -> None:
    with pytest.raises(LocationError):
        Location.parse(text)


def test_a_bucket_of_hugging_face_is_no_repository() -> None:
    found = Location.parse("hf://buckets/team/data/a%20b?cred=team-a")
    assert found.split() == (("team", "data"), ("a b",))
    assert str(found) == "hf://buckets/team/data/a%20b?cred=team-a"
    assert found.scheme.store.endswith("HfBucketStore")
    for other in ("hf://datasets/team/data/a b", "hf://buckets/team/data", "hf://team/data/a b"):
        assert not found.contains(Location.parse(other))
    with pytest.raises(LocationError, match=r"no revisions: hf://buckets/team/artifacts"):
        Location.parse("hf://buckets/team/data@main")


@pytest.mark.parametrize(
    ("spelled", "usual"),
    [
        ("fsspec-s3://bucket/a", "fsspec+s3://bucket/a"),
        ("fsspec-sftp://me@h:2222/a", "fsspec+sftp://me@h:2222/a"),
        ("FSSPEC-abfs://container/a", "fsspec+abfs://container/a"),
        ("mssql://h/a?Encrypt=yes", "mssql+pyodbc://h/a?Encrypt=yes"),
    ],
)
def test_a_scheme_with_a_plus_has_a_spelling_without(spelled: str, usual: str) -> None:
    assert Location.parse(spelled) == Location.parse(usual)
    assert str(Location.parse(spelled)) == usual


def test_xethubs_uris_are_those_of_hugging_face() -> None:
    for text, meant in {
        "xet://user/repository/main/a/b": "hf://models/user/repository@main/a/b",
        "xet://user/repository": "hf://models/user/repository",
        "XET://user/repository/dev?cred=x": "hf://models/user/repository@dev?cred=x",
    }.items():
        assert str(Location.parse(text)) == meant


def test_a_database_file_however_many_slashes_mlflow_has_eaten() -> None:
    whole = Location.parse("sqlite:////data/a.db/1/run/artifacts")
    for text in ("sqlite://data/a.db/1/run/artifacts", "sqlite:/data/a.db/1/run/artifacts"):
        assert Location.parse(text) == whole
    for text in ("sqlite:///data/a.db", "sqlite:a.db", "sqlite://", "sqlite:////data/a.txt"):
        with pytest.raises(LocationError):
            Location.parse(text)


def test_a_folder_after_one_slash_or_three_and_after_no_host() -> None:
    folder = Location.parse("file-plugin:/data/my%20runs")
    assert folder == Location.parse("file-plugin:///data/my runs/")
    assert str(folder.join("a b")) == "file-plugin:/data/my%20runs/a%20b"
    for text in ("", "/", "a", "//data/a", "//h:1/a", "////data/a", "///", "/a?driver=x"):
        with pytest.raises(LocationError):
            Location.parse(f"file-plugin:{text}")


@pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "a//b", ".", "a/.", "a\\b", "a\0"])
def test_artifact_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(LocationError):
        artifact_names(path)


@pytest.mark.parametrize("name", ["a b", "ü\u200cx", "100%", "a%2fb", "a#b", "a?b", "a;b", "..a"])
def test_any_other_name_of_an_artifact_is_kept(name: str) -> None:
    location = Location.parse("postgresql://h/a").join(f"d/{name}")
    assert location.names == ("a", "d", name)


@given(st.lists(st.text(min_size=1, max_size=20), max_size=4), st.sampled_from(SCHEMES))
def test_whatever_may_be_joined_stays_below_and_reads_back(
    names: list[str], scheme: Scheme
) -> None:
    root = Location.parse(scheme.example)
    try:
        found = root.join("/".join(names))
    except LocationError:
        return
    assert root.contains(found)
    assert found.names[: len(root.names)] == root.names
    try:
        again = Location.parse(str(found))
    except LocationError as error:
        # A name that looks encoded is a name, but a URI that is encoded twice is none.
        assert "twice" in str(error)  # noqa: PT017
        return
    assert again == found


@given(st.text(max_size=80), st.sampled_from(SCHEMES))
def test_a_uri_is_refused_or_means_the_same_when_it_is_written_anew(
    rest: str, scheme: Scheme
) -> None:
    try:
        found = Location.parse(f"{scheme.name}:{rest}")
    except LocationError:
        return
    assert Location.parse(str(found)) == found


ROOT = {"_MLFLOW_SERVER_ARTIFACT_ROOT": "postgresql://files.example/mlflow"}


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://files.example/other", "postgresql://files.example/mlflow-2/a", "postgresql://evil/mlflow",
        "postgresql://files.example:81/mlflow/a", "mysql://files.example:5432/mlflow/a",
        "postgresql://me@files.example/mlflow/a", "postgresql://files.example/mlflow/a?cred=b",
        "sqlite:////etc/a.db", "file-plugin:/etc", f"postgresql://me:{PASSWORD}@files.example/mlflow/a",
    ],
)  # fmt: skip
def test_a_server_opens_nothing_outside_of_its_root(text: str) -> None:
    check_in_server(Location.parse(text), {})
    with pytest.raises(LocationError) as told:
        check_in_server(Location.parse(text), ROOT)
    assert PASSWORD not in str(told.value)


def test_a_server_opens_its_root_and_what_its_operator_allows() -> None:
    more = {**ROOT, "MLFLOW_EXEC_ALLOWED_LOCATIONS": "postgresql://h/b sqlite:////d/a.db"}
    mine = "postgresql://files.example:5432/mlflow/1/r"
    for text in (mine, "postgresql://h/b/c", "sqlite:/d/a.db/1"):
        check_in_server(Location.parse(text), more)
    with pytest.raises(LocationError):
        check_in_server(Location.parse("postgresql://h/c"), more)
    with pytest.raises(LocationError, match="s3://x"):
        check_in_server(Location.parse("postgresql://h/b"), {**ROOT, ALLOWED: "s3://x"})
