"""What holds of `Location` whatever it is given: laws, checked on bytes that a fuzzer makes.

The bytes are up to three texts, between bytes of 0xff: a URI, an artifact's path, and what stands
before and behind a password. A URI whose first byte is below 32 is the rest of one of that scheme.
"""

from __future__ import annotations

from mlflow.utils.uri import append_to_uri_path

from mlflow_exec.errors import LocationError
from mlflow_exec.schemes import SCHEMES
from mlflow_exec.uris import Location, artifact_names

PASSWORD = "hunter2-that-nobody-may-see"


def check(data: bytes) -> None:
    """Raise an AssertionError, or whatever it is, where a law does not hold."""
    parts = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\xff")]
    uri, path, around = [*parts, "", "", ""][:3]
    if uri and ord(uri[0]) < 32:
        uri = f"{SCHEMES[ord(uri[0]) % len(SCHEMES)].name}:{uri[1:]}"
    root = parsed(uri)
    if root is not None:
        check_spelling(uri, root)
        check_below(root, path)
    before, _, behind = around.partition("|")
    check_password(uri, before, behind)


def parsed(text: str) -> Location | None:
    """Return what a URI means; None where it is refused, which is all that may be raised."""
    try:
        return Location.parse(text)
    except LocationError:
        return None


def check_spelling(text: str, root: Location) -> None:
    """However a location is spelled, it is the same one, also when MLflow has joined to it."""
    assert Location.parse(str(root)) == root, "written anew it is another one"
    assert str(Location.parse(str(root))) == str(root), "it is written in two ways"
    for name in root.names:
        assert name not in ("", ".", ".."), "a name leads elsewhere"
        assert not set("/\\\0") & set(name), "a name is more than one"
    assert root.contains(root)
    own, below = root.split()
    assert own + below == root.names
    for spelled in (text, str(root)):
        joined = append_to_uri_path(spelled, "1", "run", "artifacts")
        found = parsed(joined)
        assert found == root.join("1/run/artifacts"), f"joined, it is elsewhere: {joined!r}"


def check_below(root: Location, path: str) -> None:
    """What is joined is below; and it is nothing else when it is written and read."""
    try:
        joined = root.join(path)
    except LocationError:
        return
    names = artifact_names(path)
    assert joined.names == root.names + names
    assert root.contains(joined)
    assert joined.contains(root) == (not names), "the root is below what is in it"
    assert joined.split()[0] == root.split()[0], "it is in another database or repository"
    one_by_one = root
    for name in names:
        one_by_one = one_by_one.join(name)
    assert one_by_one == joined, "in two steps it is another one"
    try:
        again = Location.parse(str(joined))
    except LocationError as error:
        # A name that looks encoded is a name, but a URI that is encoded twice is none.
        assert "twice" in str(error) or "longer than" in str(error)  # noqa: PT017
    else:
        assert again == joined


def check_password(uri: str, before: str, behind: str) -> None:
    """A password is shown by no error and by no location, wherever in a URI it stands."""
    if PASSWORD in uri + before + behind:
        return
    scheme, _, rest = uri.partition("://")
    for text in (
        f"{scheme}://me:{before}{PASSWORD}{behind}@{rest}",
        f"{scheme}:{before}:{PASSWORD}{behind}@{rest}",
        f"{uri}{before}:{PASSWORD}{behind}@h/a",
    ):
        try:
            found = Location.parse(text)
        except LocationError as error:
            assert PASSWORD not in str(error), f"shown by the error: {error}"  # noqa: PT017
            continue
        if not any(PASSWORD in name for name in (*found.names, found.user)):
            assert PASSWORD not in f"{found} {found!r}", "shown by the location"
