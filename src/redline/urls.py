"""URLs as they may be shown and written down."""

import re


def without_login(url: str) -> str:
    """A URL as it may be shown and written down: without the user and password before its host."""
    return re.sub("(^|//)[^/]*@", r"\1", url)


def without_logins(text: str) -> str:
    """A text whose URLs have lost their users and passwords."""
    return re.sub(r"//\S+", lambda url: without_login(url[0]), text)
