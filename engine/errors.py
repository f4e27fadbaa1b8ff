"""The one error that a user can cause.

Everything a user can get wrong (a file, a key, a value) ends as a `UserError`: one line that names the file
or key and the remedy. The tools print it and exit with status 1; anything else is a bug and keeps its
traceback.
"""


class UserError(ValueError):
    """What is wrong, where, and what to do about it, in one line."""
