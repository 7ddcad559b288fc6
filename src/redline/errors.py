"""The one exception for what a user can get wrong: what happened, where, and how to mend it, in one line."""


class UserError(Exception):
    """A mistake the user can mend. The command line prints it on stderr, without a traceback, and exits with
    status 2.

    The message is one line: what is wrong, where (file, line, field, recipe key), and how to mend it, e.g.
    ``edits.jsonl, line 3: not valid JSON (Expecting ',' delimiter, column 41). Fix or delete the line.``
    """
