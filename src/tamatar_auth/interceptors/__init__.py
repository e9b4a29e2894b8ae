"""The work around every call, before and after its servicer."""
