"""The options to change if a connection fails, by the words of gRPC's TLS library."""

_NO_CONNECTION = "connections to all backends failing"

_HINTS = {
    "WRONG_VERSION_NUMBER": "the service uses plaintext: pass plaintext=True",
    "Hostname Verification Check failed": "the certificate has another name: pass server_name",
    "CERTIFICATE_VERIFY_FAILED": "the CA is not trusted: pass root_certificates",
    "certificate signature failure": "the CA is not trusted: pass other root_certificates",
    "create security handshaker": "a certificate or key is not valid PEM, or they do not fit",
    "Socket closed": "the service may require TLS or a client certificate",
}


def connection_hint(details: str) -> str:
    """Return what to change for a call that reached no service, or an empty text."""
    if not details.startswith(_NO_CONNECTION):
        return ""
    return next((hint for words, hint in _HINTS.items() if words in details), "")
