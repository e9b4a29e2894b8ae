"""The commands that call a service: what people and scripts do with users and sessions.

They need the client alone (`pip install 'tamatar-auth[cli]'`), and are imported when they
are asked for. What cannot be done ends as a `CommandError` with one of these exit codes:

    1    the service refused it, or some of it
    2    it was asked for in a wrong way, or a context cannot be used
    3    the service was not reached, or has no time: try again
    4    there is no such user or session
    5    the service does not know this caller, or does not let it do this
"""
