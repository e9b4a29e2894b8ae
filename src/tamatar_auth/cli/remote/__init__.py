"""Commands that call a service: what people and scripts do with users and sessions.

They need only the client (`pip install 'tamatar-auth[cli]'`). A command that fails raises
`CommandError` with one of these exit codes:

    1    the service rejected the request, or some rows of it
    2    the command or its context is wrong
    3    the service was not reached or is busy: try again
    4    there is no such user or session
    5    the service does not know this caller, or does not allow the call
"""
