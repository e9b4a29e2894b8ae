"""Mutants of callers: identified by token or certificate, and allowed by role."""

from tests.mutants.mutant import mutant

_AUTHENTICATION = "interceptors/authentication.py"
_CALLERS = "security/callers.py"
_RULES = "security/authorization.py"
_FILE = "security/caller_file.py"

_TEST_AUTHENTICATION = "interceptors/test_authentication.py"
_TEST_RULES = f"{_TEST_AUTHENTICATION}::TestAccessRules::test_role_allows_its_methods_only"
_TEST_CALLERS = f"{_TEST_AUTHENTICATION}::TestCallers"
_TEST_FILE = "security/test_caller_file.py"
_TLS = "server/test_credential_files.py::TestTls"

MUTANTS = (
    mutant(
        "common_name_is_a_dns_name",
        _AUTHENTICATION,
        'auth_context.get("peer_dns", ())',
        '(*auth_context.get("peer_dns", ()), *auth_context.get("x509_common_name", ()))',
        f"{_TLS}::test_names_of_other_kinds_are_no_caller",
    ),
    mutant(
        "any_alternative_name_is_a_dns_name",
        _AUTHENTICATION,
        'auth_context.get("peer_dns", ())',
        'auth_context.get("x509_subject_alternative_name", ())',
        f"{_TLS}::test_names_of_other_kinds_are_no_caller",
    ),
    mutant(
        "dns_name_is_a_spiffe_id",
        _AUTHENTICATION,
        "return [*ids, *(dns_name(host) for host in hosts)]",
        "return [*ids, *hosts, *(dns_name(host) for host in hosts)]",
        f"{_TLS}::test_names_of_other_kinds_are_no_caller",
    ),
    mutant(
        "certificate_and_token_of_two_callers",
        _AUTHENTICATION,
        "if len(found) > 1:",
        "if len(found) > 2:",
        f"{_TLS}::test_certificate_and_token_of_two_callers_are_refused",
    ),
    mutant(
        "plaintext_from_another_machine",
        _AUTHENTICATION,
        "if not is_local and not credentials.is_encrypted:",
        "if not is_local and credentials.is_encrypted:",
        f"{_TEST_CALLERS}::test_plaintext_from_other_address_is_refused",
    ),
    mutant(
        "any_machine_is_local",
        _AUTHENTICATION,
        '("unix:", "ipv4:127.", "ipv6:%5B::1%5D:")',
        '("unix:", "ipv4:", "ipv6:%5B::1%5D:")',
        f"{_TEST_CALLERS}::test_plaintext_from_other_address_is_refused",
    ),
    mutant(
        "second_authorization_header_is_ignored",
        _AUTHENTICATION,
        "if len(sent) == 1 else None",
        "if sent else None",
        f"{_TEST_CALLERS}::test_unproven_callers_are_refused_alike",
    ),
    mutant(
        "token_may_be_followed_by_anything",
        _AUTHENTICATION,
        "_BEARER.fullmatch(",
        "_BEARER.match(",
        f"{_TEST_CALLERS}::test_unproven_callers_are_refused_alike",
    ),
    mutant(
        "expired_token_of_a_caller",
        _CALLERS,
        "return caller if time.time() < expires else None",
        "return caller",
        f"{_TEST_CALLERS}::test_unproven_callers_are_refused_alike",
    ),
    mutant(
        "caller_without_the_role",
        _AUTHENTICATION,
        "if caller.roles.isdisjoint(self._roles):",
        "if not caller.roles:",
        _TEST_RULES,
    ),
    mutant(
        "stream_is_authenticated_once",
        _AUTHENTICATION,
        "            self._call.cancel_with(failure)",
        "            failure.args",
        "servicers/test_watch_sessions.py::test_removed_caller_loses_its_watch",
    ),
    mutant(
        "method_without_a_rule_is_open",
        _AUTHENTICATION,
        ".get(method.name, DENY_ALL)",
        ".get(method.name, AccessRule(frozenset(), is_open=True))",
        f"{_TEST_AUTHENTICATION}::TestAccessRules::test_method_without_access_rule_is_refused",
    ),
    mutant(
        "validator_may_create_sessions",
        _RULES,
        '"CreateSession": ACCOUNTS',
        '"CreateSession": READER',
        _TEST_RULES,
    ),
    mutant(
        "accounts_may_export",
        _RULES,
        '"ExportUsers": ADMIN',
        '"ExportUsers": ACCOUNTS',
        _TEST_RULES,
    ),
    mutant(
        "reflection_is_open",
        _RULES,
        '"grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": ADMIN}',
        '"grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": ALLOW_ALL}',
        f"{_TEST_CALLERS}::test_unproven_callers_are_refused_alike",
        _TEST_RULES,
    ),
    mutant(
        "token_of_two_callers_is_accepted",
        _FILE,
        "    for name in _owners_of_duplicates(tokens):\n",
        "    for name in ():\n",
        _TEST_FILE,
    ),
    mutant(
        "caller_may_have_the_local_name",
        _FILE,
        "    if name == LOCAL_CALLER.name:\n",
        "    if not name:\n",
        _TEST_FILE,
    ),
    mutant(
        "client_certificate_is_optional",
        "security/tls.py",
        "require_client_authentication=current.client_ca is not None",
        "require_client_authentication=False",
        f"{_TLS}::test_unknown_client_certificates_are_refused",
    ),
    mutant(
        "key_of_another_certificate",
        "security/tls.py",
        "if key.public_key() != leaf.public_key():",
        "if key.public_key() is None:",
        "server/test_credential_files.py::TestTls::test_invalid_tls_file_is_reported_in_one_line",
    ),
    mutant(
        "expired_certificate_is_served",
        "security/tls.py",
        "if leaf.not_valid_after_utc <= datetime.now(UTC):",
        "if leaf.not_valid_after_utc <= leaf.not_valid_before_utc:",
        "server/test_credential_files.py::TestTls::test_invalid_tls_file_is_reported_in_one_line",
    ),
)
