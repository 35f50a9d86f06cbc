"""The one family of errors a user can meet."""


class PacklightError(Exception):
    """A mistake or a limit that the user can act on.

    The message is one line: what was given, what is allowed, what to do.
    """


class MissingRuntime(PacklightError):
    """A target's runtime is not installed; the message holds the pip line that brings it."""


class ChildFailure(PacklightError):
    """Native code in a child process crashed, hung or outgrew its memory limit.

    log: the child's last words (stderr), for people who want to dig.
    """

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log
