"""Every statement of the repositories has a summary that fits its text."""

import contextlib
import inspect
import re
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from uuid import UUID

from sqlalchemy import event

from tamatar_auth.errors import Failure
from tamatar_auth.storage.database import Scope
from tamatar_auth.storage.repositories.challenges import ChallengePurpose, NewChallenge
from tamatar_auth.storage.repositories.credentials import Credentials
from tamatar_auth.storage.repositories.expired_rows import ExpiredRows
from tamatar_auth.storage.repositories.factors import FactorKind, NewFactor
from tamatar_auth.storage.repositories.login_attempts import AttemptKeys
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.proofs import StoredFactor
from tamatar_auth.storage.repositories.session_rotation import NewToken
from tamatar_auth.storage.repositories.sessions import SessionRow
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.repositories.user_filters import UserFilter, UserOrder
from tamatar_auth.storage.repositories.user_import import ImportedUser
from tamatar_auth.storage.repositories.user_tokens import EmailChange, TokenOwner, TokenPurpose
from tamatar_auth.storage.repositories.users import NewUser
from tamatar_auth.storage.tables import metadata
from tests.support.rows import new_session

ID, DIGEST, DAY = UUID(int=1), b"d" * 32, timedelta(days=1)
ADA = NewUser(id=ID, email="ada@example.com")
OTHER_ADA = NewUser(id=UUID(int=2), email="ada@example.com", request_id=ID)
IMPORTED = ImportedUser(user=OTHER_ADA, profile=ProfileRow())
CHECKED = Credentials(ID, "ada@example.com", "hash", is_active=True)
OWNER = TokenOwner(ID, "ada@example.com")
CHANGE = EmailChange(OWNER, "new@example.com")
KEYS = AttemptKeys(typed=DIGEST, account=b"a" * 32, user_id=None)
START = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = SessionRow(ID, ID, START, START + DAY, START, None, None, "pwd", None, START)
RESET = TokenPurpose.PASSWORD_RESET
APP = NewFactor(id=ID, user_id=ID, kind=FactorKind.TOTP, key_id="key", encrypted_secret=b"secret")
STORED = StoredFactor._make((ID, ID, "totp", None, None, 0, None, None, 0, False, None, 0.0))
CODES = NewFactor(id=UUID(int=2), user_id=ID, kind=FactorKind.RECOVERY_CODES, key_id="key")
CHALLENGE = NewChallenge(token_digest=DIGEST, purpose=ChallengePurpose.SIGN_IN, user_id=ID)

CALLS = [
    ("users.add", lambda add: add(ADA)),
    ("users.find_created_by", lambda find: find(ID, DIGEST)),
    ("users.get", lambda get: get(ID)),
    ("users.get_by_email", lambda get: get("ada@example.com")),
    ("users.get_by_username", lambda get: get("ada")),
    ("users.find_many", lambda find: find([ID])),
    ("users.update", lambda update: update(ID, {"first_name": "Ada"})),
    ("users.set_active", lambda set_active: set_active(ID, active=False)),
    ("users.delete", lambda delete: delete(ID, deleted_by=None)),
    ("users.restore", lambda restore: restore(ID, {})),
    ("user_lists.page", lambda page: page(UserFilter(), UserOrder(), size=1)),
    ("user_lists.page", lambda page: page(UserFilter(email_prefix="a"), UserOrder(), size=1)),
    ("user_lists.count", lambda count: count(UserFilter())),
    ("user_lists.stats", lambda stats: stats(UserFilter())),
    ("profiles.add", lambda add: add(ID, ProfileRow())),
    ("profiles.get", lambda get: get(ID)),
    ("profiles.update", lambda update: update(ID, {"bio": "engines"})),
    ("sessions.add", lambda add: add(new_session(ID))),
    ("sessions.touch", lambda touch: touch({ID: START})),
    ("sessions.revoke_excess", lambda revoke: revoke(ID, 1)),
    ("sessions.get", lambda get: get(ID)),
    ("sessions.recent", lambda recent: recent(ID, limit=1)),
    ("sessions.page", lambda page: page(ID, include_ended=False, size=1)),
    ("sessions.page", lambda page: page(ID, include_ended=True, size=1)),
    ("sessions.revoke", lambda revoke: revoke(ID)),
    ("sessions.revoke_by_token", lambda revoke: revoke(TokenKey(DIGEST))),
    ("sessions.revoke_of_user", lambda revoke: revoke(ID)),
    ("rotations.rotate", lambda rotate: rotate(TokenKey(DIGEST), NewToken(DIGEST, DIGEST))),
    ("rotations.find_rotated", lambda find: find(TokenKey(DIGEST))),
    ("rotations.revoke_reused", lambda revoke: revoke(SESSION)),
    ("rotations.step_up", lambda step_up: step_up(TokenKey(DIGEST), DIGEST, "pwd")),
    ("authentications.get", lambda get: get(TokenKey(DIGEST))),
    ("credentials.find_by_user_id", lambda find: find(ID)),
    ("credentials.find_by_email", lambda find: find("ada@example.com")),
    ("credentials.find_by_username", lambda find: find("ada")),
    ("credentials.record_sign_in", lambda record: record(CHECKED)),
    ("credentials.lock", lambda lock: lock(CHECKED)),
    ("credentials.replace", lambda replace: replace(CHECKED, "hash")),
    ("credentials.reset", lambda reset: reset(OWNER, "hash")),
    ("credentials.verify_email", lambda verify: verify(OWNER)),
    ("credentials.change_email", lambda change: change(CHANGE)),
    ("user_tokens.issue", lambda issue: issue(RESET, OWNER, DIGEST, DAY)),
    ("user_tokens.get", lambda get: get(RESET, DIGEST)),
    ("user_tokens.consume", lambda consume: consume(RESET, DIGEST)),
    ("user_tokens.issue_change", lambda issue: issue(CHANGE, DIGEST, DAY)),
    ("user_tokens.get_change", lambda get: get(DIGEST)),
    ("user_tokens.revoke", lambda revoke: revoke(ID)),
    (
        "user_tokens.issue_reset",
        lambda issue: issue("ada@example.com", DIGEST, DAY, stand_in=DIGEST),
    ),
    ("attempts.reserve", lambda reserve: reserve(KEYS)),
    ("attempts.release", lambda release: release(KEYS)),
    ("attempts.record_failure", lambda record: record(KEYS)),
    ("attempts.record_success", lambda record: record(KEYS)),
    ("attempts.clear", lambda clear: clear(DIGEST)),
    ("users.lock", lambda lock: lock(ID)),
    ("credentials.record_proven_sign_in", lambda record: record(ID)),
    ("factors.require_room", lambda require_room: require_room(ID)),
    ("factors.add", lambda add: add(APP)),
    ("factors.add", lambda add: add(CODES)),
    ("factors.add_codes", lambda add_codes: add_codes(CODES.id, [DIGEST])),
    ("factors.list_of_user", lambda list_of_user: list_of_user(ID)),
    ("factors.get", lambda get: get(ID)),
    ("factors.confirm", lambda confirm: confirm(ID, 1)),
    ("factors.relabel", lambda relabel: relabel(ID, "Phone")),
    ("proofs.of_user", lambda of_user: of_user(ID)),
    ("proofs.of_credential", lambda of_credential: of_credential(DIGEST)),
    ("proofs.of_factor", lambda of_factor: of_factor(ID)),
    ("proofs.use_step", lambda use: use(STORED, 2)),
    ("proofs.use_code", lambda use: use(STORED, DIGEST)),
    ("proofs.use_passkey", lambda use: use(STORED, 0, is_backed_up=True)),
    ("proofs.renew_secret", lambda renew: renew(ID, "key", b"secret")),
    ("passkeys.of_user", lambda of_user: of_user(ID)),
    ("passkeys.of_email", lambda of_email: of_email("ada@example.com")),
    ("factors.delete_unconfirmed", lambda delete: delete(ID)),
    ("factors.delete_codes", lambda delete: delete(ID)),
    ("factors.delete", lambda delete: delete(ID)),
    ("challenges.issue", lambda issue: issue(CHALLENGE)),
    ("challenges.count_answer", lambda count: count(DIGEST, [ChallengePurpose.SIGN_IN])),
    ("challenges.uncount_answer", lambda uncount: uncount(DIGEST)),
    ("challenges.use", lambda use: use(DIGEST)),
    ("challenges.delete_of_user", lambda delete: delete(ID)),
    ("imports.add", lambda add: add([IMPORTED])),
    ("imports.add_profiles", lambda add: add([])),
    ("imports.resolve_conflicts", lambda resolve: resolve([IMPORTED])),
    ("exports.page", lambda page: page(None, size=1)),
    ("sweeps.try_lock", lambda try_lock: try_lock()),
    ("sweeps.count", lambda count: count(dict.fromkeys(ExpiredRows, DAY))),
    ("sweeps.lock_deleted_users", lambda lock: lock(DAY, limit=1)),
    ("sweeps.purge_sessions_of", lambda purge: purge([ID], limit=1)),
    ("sweeps.remove_session_ends", lambda remove: remove(limit=1)),
    ("sweeps.purge", lambda purge: purge(ExpiredRows.EXPIRED_SECRETS, DAY, limit=1)),
    ("users.purge", lambda purge: purge(ID)),
]


async def test_statements_of_repositories_have_fitting_summaries(database):
    sent = []

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def catch(_connection, _cursor, statement, _values, context, _many):
        sent.append((context.execution_options.get("summary"), statement))

    for method, call in CALLS:
        sent.clear()
        with contextlib.suppress(Failure):
            async with database.transaction() as tx:
                await call(attrgetter(method)(tx))
        assert sent, method
        for summary, statement in sent:
            assert summary, method
            words = summary.split()
            assert all(word in statement for word in words), method
            assert words[1:] or not tables_in(statement), method


def tables_in(statement):
    return {name for name in metadata.tables if re.search(rf"\b{name}\b", statement)}


async def test_calls_cover_every_method_of_the_repositories(database):
    async with database.read() as db:
        methods = {
            f"{name}.{method}"
            for name, repository in vars(db).items()
            # Statements as text name themselves.
            if name not in {"connection", "diagnostics", "session_days"}
            for method, _ in inspect.getmembers(type(repository), inspect.iscoroutinefunction)
            if not method.startswith("_")
        }
    assert isinstance(db, Scope)
    assert methods == {method for method, _ in CALLS}
