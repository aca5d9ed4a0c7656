"""The errors that Cascade raises on purpose.

Each message is one line that says what was wrong and what would be right, so that a command line or a service can show
it to a user as it stands. Anything else that escapes is a bug.
"""


class CascadeError(Exception):
    """Root of every error that Cascade raises on purpose."""


class InputError(CascadeError, ValueError):
    """Input from outside (a file, a query, an option, a frame) that Cascade refuses."""


class IntegrityError(CascadeError):
    """A stored file whose bytes are not those that were published: truncated, altered or missing."""


class MissingExtra(CascadeError, ImportError):
    """An optional dependency is not installed; the message names the command that installs it."""
