"""Authorization: one rule for each method of the server.

A method without a rule rejects all callers, and the server refuses to start.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from tamatar_auth.security.callers import Role


class AccessRule(NamedTuple):
    """The roles that may call a method. An open method needs no authentication."""

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
            "CreateEmailChange": ACCOUNTS,
            "ConfirmEmailChange": ACCOUNTS,
            "CreatePasswordReset": ACCOUNTS,
            "ResetPassword": ACCOUNTS,
            "ImportUsers": ADMIN,
            "ExportUsers": ADMIN,
        },
        "tamatar.auth.v1.SessionService": {
            "CreateSession": ACCOUNTS,
            "BeginPasskeySignIn": ACCOUNTS,
            "CompleteSignIn": ACCOUNTS,
            "BeginStepUp": ACCOUNTS,
            "CompleteStepUp": ACCOUNTS,
            "ValidateSession": VALIDATOR,
            "BatchValidateSessions": VALIDATOR,
            "RefreshSession": ACCOUNTS,
            "GetSession": ACCOUNTS,
            "ListSessions": ACCOUNTS,
            "RevokeSession": ACCOUNTS,
            "RevokeUserSessions": ACCOUNTS,
            "WatchSessions": VALIDATOR,
        },
        "tamatar.auth.v1.FactorService": {
            "CreateTotpFactor": ACCOUNTS,
            "ConfirmTotpFactor": ACCOUNTS,
            "CreateRecoveryCodes": ACCOUNTS,
            "BeginPasskeyRegistration": ACCOUNTS,
            "FinishPasskeyRegistration": ACCOUNTS,
            "ListFactors": ACCOUNTS,
            "UpdateFactor": ACCOUNTS,
            "DeleteFactor": ACCOUNTS,
        },
        "tamatar.auth.v1.DiagnosticsService": {
            "GetCaller": READER,
            "GetDatabaseInfo": ADMIN,
            "ListSlowestQueries": ADMIN,
        },
        # Load balancers and orchestrators have no credentials. They see nothing but the status.
        "grpc.health.v1.Health": {"Check": ALLOW_ALL, "Watch": ALLOW_ALL, "List": ALLOW_ALL},
        "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": ADMIN},
        "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": ADMIN},
    }
)


def find_rule_mismatch(
    served_methods: Mapping[str, Collection[str]], rules: AccessRules = ACCESS_RULES
) -> str | None:
    """Return a message about the first method without a rule or rule without a method, or None.

    `served_methods` has the method names of each service.
    """
    methods = {f"{service}/{name}" for service, names in served_methods.items() for name in names}
    methods_with_rule = {f"{service}/{name}" for service, names in rules.items() for name in names}
    for method in sorted(methods - methods_with_rule):
        return f"{method} has no rule for callers: add one to security/authorization.py."
    for method in sorted(methods_with_rule - methods):
        return f"{method} has a rule, but no service has it: see security/authorization.py."
    return None
