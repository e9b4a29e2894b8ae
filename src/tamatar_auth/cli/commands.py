"""The table of commands: the function and the short help of each.

A function's docstring starts with the same sentence as the short help.
"""

from tamatar_auth.cli.lazy import CallCommand, LazyCommand, LazyGroup

MIGRATE = LazyGroup(
    "Migrate the tables of the database.",
    {
        "up": LazyCommand("cli.local.migrate:up", "Upgrade the tables to a revision."),
        "down": LazyCommand("cli.local.migrate:down", "Downgrade the tables to a revision."),
        "status": LazyCommand("cli.local.migrate:status", "Show the revision of the tables."),
        "sql": LazyCommand("cli.local.migrate:sql", "Print the SQL of the migrations."),
        "check": LazyCommand("cli.local.migrate:check", "Compare the tables with the code."),
    },
    examples=[
        "tamatar-auth migrate status",
        "tamatar-auth migrate up",
        "tamatar-auth migrate sql 0001:0002",
    ],
)

CONFIG = LazyGroup(
    "Show the settings.",
    {
        "show": LazyCommand("cli.local.config:show", "Show every setting and its source."),
        "example": LazyCommand("cli.local.config:example", "Print a .env file with the defaults."),
    },
    examples=[
        "tamatar-auth config show",
        "tamatar-auth config example > .env",
    ],
)

CALLER = LazyGroup(
    "Manage the services that may call.",
    {
        "add": LazyCommand("cli.local.callers:add", "Add a caller and print its token."),
        "rotate": LazyCommand("cli.local.callers:rotate", "Issue a new token and print it."),
        "list": LazyCommand("cli.local.callers:show", "List the callers."),
        "remove": LazyCommand("cli.local.callers:remove", "Remove a caller."),
    },
    examples=[
        "tamatar-auth caller add gateway --role validator --expires 30d",
        "tamatar-auth caller add shop --role accounts --spiffe-id spiffe://acme/shop",
        "tamatar-auth caller rotate gateway --overlap 1h",
    ],
)

FACTORS = LazyGroup(
    "Manage the second factors of users.",
    {
        "list": CallCommand(
            "cli.remote.factors:show_factors", "List the second factors of a user."
        ),
        "delete": CallCommand("cli.remote.factors:delete", "Remove a second factor of a user."),
        "reset-recovery": CallCommand(
            "cli.remote.factors:reset_recovery", "Replace the recovery codes of a user."
        ),
    },
    examples=[
        "tamatar-auth user factors list ada@example.com",
        "tamatar-auth user factors reset-recovery ada@example.com --yes",
    ],
)

USER = LazyGroup(
    "Manage users.",
    {
        "create": CallCommand("cli.remote.user_changes:create", "Create a user."),
        "get": CallCommand("cli.remote.users:get", "Show a user and its profile."),
        "list": CallCommand("cli.remote.users:show_users", "List users, the newest first."),
        "stats": CallCommand("cli.remote.users:show_stats", "Count users."),
        "update": CallCommand("cli.remote.user_changes:update", "Change fields of a user."),
        "deactivate": CallCommand(
            "cli.remote.user_changes:deactivate", "Block sign-ins of a user, end its sessions."
        ),
        "activate": CallCommand(
            "cli.remote.user_changes:activate", "Allow a deactivated user to sign in again."
        ),
        "delete": CallCommand(
            "cli.remote.user_changes:delete", "Delete a user, which can be restored."
        ),
        "restore": CallCommand("cli.remote.user_changes:restore", "Restore a deleted user."),
        "purge": CallCommand("cli.remote.user_changes:purge", "Remove a user permanently."),
        "verify-email": CallCommand(
            "cli.remote.user_changes:verify_email", "Mark the email address of a user as verified."
        ),
        "reset-password": CallCommand(
            "cli.remote.user_changes:reset_password", "Set a new password, end the user's sessions."
        ),
        "factors": FACTORS,
    },
    examples=[
        "tamatar-auth user create ada@example.com --first-name Ada --ask-password",
        "tamatar-auth user get ada@example.com --sessions",
        "tamatar-auth user list --unverified --created-before 2026-01-01 -o name",
        "tamatar-auth user delete ada@example.com --by support --yes",
    ],
)

SESSION = LazyGroup(
    "Manage sessions.",
    {
        "create": CallCommand("cli.remote.sessions:create", "Sign a user in."),
        "validate": CallCommand(
            "cli.remote.sessions:validate", "Show the session of a token and its user."
        ),
        "list": CallCommand("cli.remote.sessions:show_sessions", "List the sessions of a user."),
        "revoke": CallCommand("cli.remote.sessions:revoke", "End a session."),
        "revoke-user": CallCommand("cli.remote.sessions:revoke_user", "End a user's sessions."),
    },
    examples=[
        "tamatar-auth session create ada@example.com",
        "tamatar-auth session list ada@example.com --ended -o wide",
        "tamatar-auth session revoke-user ada@example.com --yes",
    ],
)

DATABASE = LazyGroup(
    "Inspect the database of a service.",
    {
        "info": CallCommand(
            "cli.remote.diagnostics:database_info", "Show the connections and the versions."
        ),
        "slowest": CallCommand(
            "cli.remote.diagnostics:slowest_queries", "List the statements that took the most time."
        ),
    },
    examples=["tamatar-auth db info", "tamatar-auth db slowest -o wide"],
)

CONTEXT = LazyGroup(
    "Manage the services that the commands call.",
    {
        "add": LazyCommand("cli.remote.contexts:add", "Add or replace a context."),
        "use": LazyCommand("cli.remote.contexts:use", "Make a context the current one."),
        "list": LazyCommand("cli.remote.contexts:show_contexts", "List the contexts."),
        "show": LazyCommand("cli.remote.contexts:show_context", "Show a context."),
        "remove": LazyCommand("cli.remote.contexts:remove", "Remove a context."),
    },
    examples=[
        "tamatar-auth context add local 127.0.0.1:50051 --use",
        "tamatar-auth context add prod auth.example.com:50051 --ca ca.pem --use",
        "tamatar-auth context add mesh auth:50051 --certificate tls.crt --key tls.key",
    ],
)

COMMANDS: dict[str, LazyCommand | LazyGroup] = {
    "serve": LazyCommand("cli.local.serve:serve", "Answer calls until SIGTERM or Ctrl-C."),
    "work": LazyCommand("cli.local.work:work", "Answer calls as one worker.", hidden=True),
    "migrate": MIGRATE,
    "seed": LazyCommand("cli.local.jobs:seed", "Create the administrator and the sample users."),
    "sweep": LazyCommand("cli.local.jobs:sweep", "Remove rows that are past their retention."),
    "healthcheck": CallCommand("cli.healthcheck:healthcheck", "Check whether a server is healthy."),
    "doctor": LazyCommand("cli.local.doctor:doctor", "Check the installation."),
    "config": CONFIG,
    "caller": CALLER,
    "protoset": LazyCommand("cli.remote.protoset:protoset", "Write the compiled protos to a file."),
    "version": LazyCommand("cli.version:version", "Print the version."),
    "whoami": CallCommand(
        "cli.remote.diagnostics:whoami", "Show this caller's name and roles, as the service does."
    ),
    "user": USER,
    "session": SESSION,
    "db": DATABASE,
    "import": CallCommand("cli.remote.transfer_commands:import_users", "Import users from a file."),
    "export": CallCommand("cli.remote.transfer_commands:export_users", "Export users to a file."),
    "context": CONTEXT,
}

EXAMPLES = [
    "tamatar-auth serve --dev",
    "tamatar-auth whoami",
    "tamatar-auth user list",
    "tamatar-auth user list --address auth.example.com:50051 --token-file token",
]
