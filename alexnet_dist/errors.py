"""What a person is told when something is wrong: one sentence, exit status 2."""


class UserError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what to do, in one sentence.

    Every command prints it without a traceback and exits with status 2. Internal mistakes are other exceptions and keep
    their traceback.
    """
