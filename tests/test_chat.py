"""Which key an endpoint is given: its own, and none over an unencrypted connection to another machine unless
it is named."""

import pytest

from redline.chat import key_for
from redline.errors import UserError


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "usual")
    monkeypatch.setenv("OTHER_KEY", "other")
    monkeypatch.delenv("NO_KEY", raising=False)


@pytest.mark.parametrize(
    ("url", "named", "key"),
    [
        ("https://api.example/v1", None, "usual"),
        ("https://api.example/v1", "OTHER_KEY", "other"),
        ("http://localhost:8000/v1", None, "usual"),
        ("http://127.0.0.1:8000/v1", None, "usual"),
        ("http://[::1]:8000/v1", None, "usual"),
        ("http://gpu-server:8000/v1", None, None),
        ("http://10.0.0.7:8000/v1", None, None),
        ("http://localhost.evil.example/v1", None, None),
        ("http://gpu-server:8000/v1", "OTHER_KEY", "other"),
    ],
)
def test_the_key_of_an_endpoint(url, named, key):
    assert key_for(url, named) == key


def test_a_key_that_is_needed_and_not_there(monkeypatch):
    with pytest.raises(UserError, match="NO_KEY, which"):
        key_for("https://api.example/v1", "NO_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="Set OPENAI_API_KEY"):
        key_for("https://api.example/v1")
    assert key_for("http://localhost:1/v1") is None
