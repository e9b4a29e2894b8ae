"""Mutants of the client: its guard, its cache, and the stream that keeps the cache right."""

from tests.mutants.mutant import mutant

_CACHE = "client/cache.py"
_GUARD = "client/guard.py"
_METHODS = "client/method_rules.py"
_RULES = "client/guard_rules.py"
_STEP_UP = "client/step_up.py"

_TEST_CACHE = "client/test_cache.py"
_TEST_GUARD = "client/test_guard.py"
_TEST_INVALIDATION = "client/test_invalidation.py"
_TEST_ASGI = "client/test_asgi.py"
_TEST_STEP_UP = "client/test_step_up.py"

MUTANTS = (
    mutant(
        "cached_answer_survives_its_end",
        _CACHE,
        "                    self._drop(key)\n            while",
        "                    self._entries[key]\n            while",
        f"{_TEST_CACHE}::TestEnds",
    ),
    mutant(
        "answer_that_crossed_its_end_is_cached",
        _CACHE,
        "or max(ended, self._evicted_end) > ticket.ends",
        "or self._evicted_end > ticket.ends",
        f"{_TEST_CACHE}::TestEnds",
    ),
    mutant(
        "forgotten_end_is_no_end",
        _CACHE,
        "or max(ended, self._evicted_end) > ticket.ends",
        "or ended > ticket.ends",
        f"{_TEST_CACHE}::TestEnds",
    ),
    mutant(
        "end_of_a_user_keeps_its_answers",
        _CACHE,
        "            self._keys_by_owner[user.user_id].add(key)\n",
        "",
        f"{_TEST_CACHE}::TestEnds",
    ),
    mutant(
        "answer_of_an_earlier_stream_is_cached",
        _CACHE,
        "                or ticket.stream != self._stream\n",
        "",
        f"{_TEST_CACHE}::TestStreams",
    ),
    mutant(
        "silent_stream_counts_as_live",
        _CACHE,
        "self._is_stream_open and self._clock() - self._last_message_at <= MAX_STREAM_SILENCE",
        "self._is_stream_open",
        f"{_TEST_CACHE}::TestStreams",
    ),
    mutant(
        "broken_stream_keeps_answers",
        _CACHE,
        "        self._is_stream_open = False\n        self._stream += 1\n",
        "        self._stream += 1\n",
        f"{_TEST_CACHE}::TestStreams",
    ),
    mutant(
        "cached_answer_outlives_its_session",
        _CACHE,
        "min(ticket.asked_at + self._max_age, self._clock() + remaining)",
        "ticket.asked_at + self._max_age",
        f"{_TEST_CACHE}::TestEnds",
    ),
    mutant(
        "cached_answer_has_no_maximum_age",
        _CACHE,
        "min(ticket.asked_at + self._max_age, self._clock() + remaining)",
        "self._clock() + remaining",
        f"{_TEST_CACHE}::TestEnds",
    ),
    mutant(
        "cache_holds_tokens",
        _CACHE,
        "return hashlib.sha256(token.encode()).digest()",
        "return token.encode()",
        f"{_TEST_CACHE}::TestEntries",
    ),
    mutant(
        "ticket_is_taken_after_the_answer",
        _GUARD,
        "            ticket = self._cache.begin()\n"
        "            response = self._validate(token, step_up)\n",
        "            response = self._validate(token, step_up)\n"
        "            ticket = self._cache.begin()\n",
        f"{_TEST_INVALIDATION}::TestCachedAnswers",
    ),
    mutant(
        "ticket_is_taken_after_the_answer_on_asyncio",
        "client/aio/guard.py",
        "            ticket = self._cache.begin()\n"
        "            response = await self._validate(token, step_up)\n",
        "            response = await self._validate(token, step_up)\n"
        "            ticket = self._cache.begin()\n",
        f"{_TEST_INVALIDATION}::TestCachedAnswers",
    ),
    mutant(
        "forked_process_keeps_the_cache",
        "client/invalidation.py",
        "            self._cache.stream_broken()\n            self._thread =",
        "            self._thread =",
        f"{_TEST_INVALIDATION}::TestWatch",
    ),
    mutant(
        "watch_that_ended_keeps_the_cache",
        "client/aio/invalidation.py",
        "            finally:\n                self._cache.stream_broken()\n",
        "            finally:\n                pass\n",
        f"{_TEST_INVALIDATION}::TestCachedAnswers",
    ),
    mutant(
        "next_event_loop_keeps_the_cache",
        "client/aio/invalidation.py",
        "            self._cache.stream_broken()  # the loop ended",
        "            pass  # the loop ended",
        "client/test_loops.py::TestCache",
    ),
    mutant(
        "silent_stream_is_kept",
        "client/invalidation.py",
        "if now() - self._last_message_at > MAX_STREAM_SILENCE:",
        "if now() < self._last_message_at:",
        f"{_TEST_INVALIDATION}::TestSilentService",
    ),
    mutant(
        "failed_calls_are_not_retried",
        "client/call_defaults.py",
        'if key != "timeout"',
        'if key == "name"',
        "client/test_connect.py::TestCalls",
    ),
    mutant(
        "retried_creation_has_no_request_id",
        "client/call_defaults.py",
        "CallDefaults(timeout, _with_request_id) if",
        "CallDefaults(timeout) if",
        "client/test_connect.py::TestCalls",
    ),
    mutant(
        "call_without_a_token_is_admitted",
        _RULES,
        "    if not values and requirement is not SessionRequirement.REQUIRED:\n",
        "    if not values:\n",
        f"{_TEST_GUARD}::TestCredentials",
    ),
    mutant(
        "unchecked_session_is_admitted_during_an_outage",
        _RULES,
        "        if isinstance(error, SessionError):\n",
        "        if error is not None:\n",
        f"{_TEST_GUARD}::TestMethods",
    ),
    mutant(
        "lasting_error_is_answered_with_try_later",
        _RULES,
        "        if error.code() not in _PASSING:\n",
        "        if error is None:\n",
        f"{_TEST_GUARD}::TestMethods",
    ),
    mutant(
        "unnamed_method_is_open",
        _METHODS,
        "return MethodRule(SessionRequirement.REQUIRED, next(found, None))",
        "return MethodRule(SessionRequirement.OPTIONAL, next(found, None))",
        _TEST_GUARD,
    ),
    mutant(
        "cache_ignores_level",
        _STEP_UP,
        "if session.assurance_level < self.level or not session.HasField",
        "if not session.HasField",
        f"{_TEST_CACHE}::TestStepUp",
    ),
    mutant(
        "cache_ignores_age",
        _STEP_UP,
        "return 0 <= age < self.max_age.total_seconds()",
        "return age is not None",
        f"{_TEST_CACHE}::TestStepUp",
    ),
    mutant(
        "guard_asks_for_no_level",
        _STEP_UP,
        "        request.min_assurance_level = step_up.level\n",
        "",
        _TEST_STEP_UP,
    ),
    mutant(
        "guard_ignores_age",
        _STEP_UP,
        "            request.max_authentication_age.FromTimedelta(step_up.max_age)\n",
        "            pass\n",
        _TEST_STEP_UP,
    ),
    mutant(
        "service_that_ignores_step_up_is_trusted",
        _RULES,
        "    if step_up is None or step_up.is_known_to(response.session):\n",
        "    if step_up is None or response:\n",
        f"{_TEST_STEP_UP}::test_service_that_ignores_step_up_is_not_trusted",
    ),
    mutant(
        "step_up_of_open_method_is_accepted",
        _METHODS,
        "if not {*_names(name)}.isdisjoint(self._open | self._optional):",
        "if name in self._optional:",
        f"{_TEST_STEP_UP}::TestConfiguration",
    ),
    mutant(
        "step_up_of_no_method_is_accepted",
        _METHODS,
        "if not _NAME.fullmatch(name):",
        "if name is None:",
        f"{_TEST_STEP_UP}::TestConfiguration",
    ),
    mutant(
        "step_up_of_no_path_is_accepted",
        "client/web_rules.py",
        "if not _STEP_UP_PATH.fullmatch(name) or not _is_plain(name):",
        "if not _is_plain(name):",
        f"{_TEST_ASGI}::TestStepUp",
    ),
    mutant(
        "level_in_place_of_a_step_up_is_accepted",
        _STEP_UP,
        "if not isinstance(name, str) or not isinstance(needed, StepUp):",
        "if not isinstance(name, str):",
        f"{_TEST_STEP_UP}::TestConfiguration",
    ),
    mutant(
        "command_ignores_an_age_of_zero",
        "cli/remote/sessions.py",
        "    if max_age is not None:\n",
        "    if max_age:\n",
        "cli/remote/test_factors.py",
    ),
    mutant(
        "command_trusts_a_service_without_levels",
        "cli/remote/sessions.py",
        'if is_required and not response.session.HasField("authenticate_time"):',
        "if is_required and not response.session.session_id:",
        "cli/remote/test_factors.py",
    ),
    mutant(
        "running_stream_loses_its_level",
        _GUARD,
        "                    get_session(token, while_running)\n",
        "                    get_session(token, None)\n",
        f"{_TEST_STEP_UP}::test_running_stream_keeps_its_level_but_may_grow_old",
    ),
    mutant(
        "path_like_one_with_step_up_needs_none",
        "client/web_rules.py",
        "return StepUp.strictest(self._step_up.values()) if self._step_up else None",
        "return None",
        f"{_TEST_ASGI}::TestStepUp",
    ),
    mutant(
        "dependency_checks_no_step_up",
        "client/fastapi.py",
        "            return await check(step_up)\n",
        "            return await check(None)\n",
        f"{_TEST_ASGI}::TestFastApi",
    ),
    mutant(
        "second_token_is_ignored",
        _RULES,
        "    if len(values) != 1 or not isinstance(values[0], str):",
        "    if not values or not isinstance(values[0], str):",
        f"{_TEST_GUARD}::TestCredentials",
    ),
    mutant(
        "stream_outlives_its_session",
        _GUARD,
        "                check()\n                yield response",
        "                yield response",
        f"{_TEST_GUARD}::TestStreams",
    ),
    mutant(
        "path_like_an_open_one_is_open",
        "client/web_rules.py",
        "return found and _is_plain(path)",
        "return found",
        f"{_TEST_ASGI}::TestPaths",
    ),
    mutant(
        "request_like_a_preflight_is_open",
        "client/web_rules.py",
        ' and {"origin", "access-control-request-method"} <= set(headers)',
        "",
        f"{_TEST_ASGI}::TestPreflights",
    ),
    mutant(
        "required_session_may_be_missing",
        "client/fastapi.py",
        "    if session is not None:\n",
        "    if session or connection:\n",
        "client/test_web_frameworks.py::TestDependencies",
    ),
    mutant(
        "rejected_request_reaches_a_view",
        "client/django.py",
        "if rejection := check.admit(request):",
        "if (rejection := check.admit(request)) is request:",
        "client/test_django.py::TestSessionMiddleware",
    ),
    mutant(
        "preflight_reaches_a_view_of_django",
        "client/django.py",
        "capable.process_view = check.admit_to_view_async if is_async else check.admit_to_view",
        "pass",
        "client/test_django.py::TestSessionMiddleware",
    ),
    mutant(
        "answer_of_a_handler_to_a_preflight_is_sent",
        "client/asgi.py",
        'if not is_error and b"access-control-allow-origin" not in names:',
        'if is_error and b"access-control-allow-origin" not in names:',
        f"{_TEST_ASGI}::TestPreflights",
    ),
    mutant(
        "cookie_replaces_the_header",
        "client/web_rules.py",
        "        if authorizations:\n",
        "        if authorizations and self._cookie is None:\n",
        f"{_TEST_ASGI}::TestSessions",
    ),
)
