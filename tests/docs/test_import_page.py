"""docs/guide/import.md: the files of the page can be imported, and reports look as it shows."""

import json
import os
import re

from tests.support.commands import BIN, ROOT, run

HASH = "$2b$04$6A3byn0SPNdbsDnUgJ4Vc.xKO5G9UwVQB9VhgGwgdw/zziH8oPAW."
PAGE = (ROOT / "docs/guide/import.md").read_text()
ROW, REPORT = re.findall(r"(?ms)^```json\n(.*?)^```$", PAGE)
(COMMANDS,) = re.findall(r"(?ms)^```console\n(.*?)^```$", PAGE)


def test_import_page_row_is_imported_whole(cli, tmp_path):
    assert '"$2b$12$..."' in ROW
    row = ROW.replace("$2b$12$...", HASH)
    (tmp_path / "one.jsonl").write_text(row)

    said = cli("import", "one.jsonl").stderr
    cli("export", "all.jsonl", "--password-hashes")

    assert "1 rows: created 1" in said
    exported = map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())
    (grace,) = (one for one in exported if one["email"] == "grace@example.com")
    assert grace.items() >= json.loads(row).items()


def test_import_page_commands_write_report_as_shown(cli, tmp_path, server_address, surroundings):
    cli("user", "create", "taken@example.com")
    (tmp_path / "users.csv").write_text(
        "email,username\nnew@example.com,\ntaken@example.com,\nshort@example.com,ab\n"
    )
    given = surroundings | {"PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    *imports, export = COMMANDS.splitlines()
    assert [line.split()[1] for line in (*imports, export)] == [*["import"] * 3, "export"]

    said = [run("sh", "-c", line, cwd=tmp_path, code=1, **given).stderr for line in imports]
    run("sh", "-c", export, cwd=tmp_path, **given)

    assert [re.search(r"rows: (.*?),", each)[1] for each in said] == [
        "would be created 1",
        "created 1",
        "created 1",
    ]
    report = tmp_path / "users.csv.report.jsonl"
    assert comparable(report.read_text()) == comparable(REPORT)
    assert f'"service": "{server_address}"' in report.read_text()
    assert "new@example.com" in (tmp_path / "all.jsonl").read_text()


def comparable(report):
    """Return the lines of a report, without values that differ between runs."""
    digests = re.sub(r'"sha256:[0-9a-f]{64}"', '"sha256:"', report)
    ids = re.sub(r'"user_id": "[0-9a-f-]{36}"', '"user_id": ""', digests)
    return re.sub(r'"service": "[^"]+"', '"service": ""', ids).splitlines()
