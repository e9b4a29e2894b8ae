"""Who may call what: one rule for each method that the server answers.

A method without a rule is answered to nobody, and keeps the server from starting.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from tamatar_auth.security.callers import Role


class AccessRule(NamedTuple):
    """The roles of which one is enough to call a method; `is_open` lets everybody call it."""

    roles: frozenset[Role]
    is_open: bool = False


DENY_ALL = AccessRule(frozenset())
ALLOW_ALL = AccessRule(frozenset(), is_open=True)
ADMIN = AccessRule(frozenset({Role.ADMIN}))
ACCOUNTS = AccessRule(frozenset({Role.ACCOUNTS, Role.ADMIN}))
VALIDATOR = AccessRule(frozenset({Role.VALIDATOR, Role.ADMIN}))
READER = AccessRule(frozenset({Role.VALIDATOR, Role.ACCOUNTS, Role.ADMIN}))

AccessRules = Mapping[str, Mapping[str, AccessRule]]

ACCESS_RULES: AccessRules = MappingProxyType(
    {
        "tamatar.auth.v1.UserService": {
            "CreateUser": ACCOUNTS,
            "GetUser": READER,
            "BatchGetUsers": READER,
            "ListUsers": ACCOUNTS,
            "GetUserStats": ACCOUNTS,
            "UpdateUser": ACCOUNTS,
            "DeactivateUser": ACCOUNTS,
            "ActivateUser": ACCOUNTS,
            "DeleteUser": ACCOUNTS,
            "RestoreUser": ACCOUNTS,
            "PurgeUser": ADMIN,
            "ChangePassword": ACCOUNTS,
            "CreateEmailVerification": ACCOUNTS,
            "VerifyEmail": ACCOUNTS,
            "CreatePasswordReset": ACCOUNTS,
            "ResetPassword": ACCOUNTS,
            "ImportUsers": ADMIN,
            "ExportUsers": ADMIN,
        },
        "tamatar.auth.v1.SessionService": {
            "CreateSession": ACCOUNTS,
            "ValidateSession": VALIDATOR,
            "BatchValidateSessions": VALIDATOR,
            "RefreshSession": ACCOUNTS,
            "GetSession": ACCOUNTS,
            "ListSessions": ACCOUNTS,
            "RevokeSession": ACCOUNTS,
            "RevokeUserSessions": ACCOUNTS,
            "WatchSessions": VALIDATOR,
        },
        "tamatar.auth.v1.DiagnosticsService": {
            "GetDatabaseInfo": ADMIN,
            "ListSlowestQueries": ADMIN,
        },
        # Balancers and orchestrators have no credentials, and learn nothing but the status.
        "grpc.health.v1.Health": {"Check": ALLOW_ALL, "Watch": ALLOW_ALL, "List": ALLOW_ALL},
        "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": ADMIN},
        "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": ADMIN},
    }
)


def find_rule_mismatch(
    served_methods: Mapping[str, Collection[str]], rules: AccessRules = ACCESS_RULES
) -> str | None:
    """Name the first method without a rule or rule without a method; None when all agree.

    `answered` has the names of the methods of each service that the server answers.
    """
    methods = {f"{service}/{name}" for service, names in served_methods.items() for name in names}
    methods_with_rule = {f"{service}/{name}" for service, names in rules.items() for name in names}
    for method in sorted(methods - methods_with_rule):
        return f"{method} has no rule for callers: add one to security/authorization.py."
    for method in sorted(methods_with_rule - methods):
        return f"{method} has a rule, but no service answers it: see security/authorization.py."
    return None
