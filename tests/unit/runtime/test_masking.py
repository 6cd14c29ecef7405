"""Secret values in the output of a job, which become ``***`` wherever the pieces of it are cut."""

from __future__ import annotations

import base64
import json
import random
import urllib.parse

import pytest

from mlflow_exec.runtime.masking import Masker

SECRET = "s3cr3t/+val'\\u\"e 中"


def masker(*values: str) -> Masker:
    made = Masker()
    made.hide(values)
    return made


def masked(text: str | bytes, *values: str) -> str:
    mask = masker(*values)
    data = text.encode() if isinstance(text, str) else text
    return (mask.feed(data) + mask.finish()).decode()


def test_a_value_is_masked_wherever_it_stands() -> None:
    assert masked(f"a{SECRET}b\n{SECRET}{SECRET}", SECRET) == "a***b\n******"


def test_without_secrets_every_byte_goes_through_at_once() -> None:
    mask = masker("short", "", "     ")
    data = bytes(range(256)) + b"short"
    assert mask.feed(data) == data
    assert mask.finish() == b""


@pytest.mark.parametrize(
    "form",
    [
        json.dumps({"x": SECRET}),
        json.dumps({"x": SECRET}, ensure_ascii=False),
        repr({"x": SECRET}),
        urllib.parse.quote(SECRET),
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.urlencode({"x": SECRET}),
    ],
)
def test_forms_in_which_programs_print_a_value_are_masked(form: str) -> None:
    shown = masked(f"before {form} after", SECRET)
    assert "***" in shown
    assert "s3cr3t" not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize("before", ["", "u", "u:", "u:p", "user:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_a_value_and_of_a_text_around_it_is_masked(
    before: str, encode: type[bytes]
) -> None:
    text = encode(f"{before}{SECRET}, after".encode())
    shown = masked(text, SECRET)
    middle = text[len(text) // 4 : len(text) // 2].decode()
    assert "***" in shown
    assert middle not in shown


def test_base64_in_lines_is_masked() -> None:
    long = random.Random(1).randbytes(300).hex()
    lines = base64.encodebytes(long.encode())
    assert masked(lines, long) == "***\n" * len(lines.splitlines())


def test_a_value_of_several_lines_is_masked_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nabcdefgh\n12\nijklmnop\n-----END KEY-----\n"
    assert masked(f"  {key}", key) == "  ***\n"
    assert masked("x abcdefgh y\n12\n", key) == "x *** y\n12\n"


def test_the_password_of_a_url_is_a_secret_of_its_own() -> None:
    url = "postgresql://user:hunter%402hunter@host/db"
    assert masked(f"{url} hunter%402hunter hunter@2hunter", url) == "*** *** ***"
    signed = "https://store/key?X-Amz-Date=20260101T000000Z&X-Amz-Signature=0123456789abcdef"
    assert masked("it was 0123456789abcdef at 20260101T000000Z", signed) == (
        "it was *** at 20260101T000000Z"
    )


def test_values_that_overlap_leave_nothing_of_each_other() -> None:
    assert masked("<abcdefghijkl>", "abcdefgh", "efghijkl") == "<***>"
    assert masked("<abcdefghijkl>", "abcdefghijkl", "cdefgh") == "<***>"


def test_it_does_not_matter_where_the_output_is_cut() -> None:
    chance = random.Random(4)
    values = ["abcdefgh", "defghijk", "aaaaaa", "token token", "x*y***z"]
    for _ in range(3000):
        words = chance.choices([*values, *"abcdefghijkto en*xyz\n"], k=chance.randint(1, 30))
        data = "".join(words).encode()
        hidden = chance.sample(values, chance.randint(1, 3))
        mask, pieces, at = masker(*hidden), [], 0
        while at < len(data):
            size = chance.randint(1, 9)
            pieces.append(mask.feed(data[at : at + size]))
            at += size
        cut = (b"".join(pieces) + mask.finish()).decode()
        assert cut == masked(data, *hidden)
        assert not any(value in cut for value in hidden)


def test_only_what_can_still_become_a_secret_is_held_back() -> None:
    mask = masker("password-of-mine")
    assert mask.feed(b"say: ") == b"say: "
    assert mask.feed(b"pass") == b""
    assert mask.feed(b"age\npa") == b"passage\n"
    assert mask.feed(b"ssword-of-mine\n") == b"***\n"


def test_a_prompt_shows_after_a_moment_and_a_secret_that_goes_on_does_not() -> None:
    mask = masker("pin: 123456")
    assert mask.feed(b"your pin") == b"your "
    assert mask.holding
    assert mask.settle() == b"pin"
    assert not mask.holding
    assert mask.feed(b": 123") == b""
    assert not mask.holding, "that much of a secret is no accident"
    assert mask.settle() == b""
    assert mask.feed(b"456!") == b"***!"


def test_the_end_of_a_prompt_is_shown_and_most_of_a_secret_is_not() -> None:
    assert masked("what: pass", "password-of-mine") == "what: pass"
    assert masked("what: password-of-min", "password-of-mine") == "what: ***"
