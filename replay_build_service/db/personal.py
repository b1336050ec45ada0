"""``docs/personal-data.md``, made from what the tables say of each field about a person.

python -m replay_build_service.db.personal > docs/personal-data.md
"""

from replay_build_service.db import manager_tables
from replay_build_service.db.tables import Base, Personal

_ALL_TABLES = (manager_tables,)
"""Modules whose tables are in `Base`'s metadata once they are imported."""

_HEAD = """# Personal data

What Replay's database keeps about people: which field, what for, and until when. This page is made from the tables
themselves (`replay_build_service/db/tables.py`); change it there, then run
`python -m replay_build_service.db.personal > docs/personal-data.md`.

People are known by the name that the hub knows them by. With EGI Check-in that is their `voperson_id`: a pseudonym, no
name and no e-mail address. Tokens, passwords and claims are never stored here; the hub keeps its own, encrypted.
Records stay until an administrator removes them: this version removes none by itself, but for what the table says.
Usage by person and month is counted from `launches`, so it goes with their rows. On SQLite the table `audit` refuses changes:
who must remove from it, after a person's objection say, drops its triggers first.

| table | field | what for | kept |
| --- | --- | --- | --- |
"""


def render() -> str:
    """The whole page, in Markdown."""
    rows = [
        f"| {table.name} | {column.name} | {personal.purpose} | {personal.retention} |\n"
        for table in sorted(Base.metadata.tables.values(), key=lambda table: table.name)
        for column in table.columns
        if isinstance(personal := column.info.get("personal"), Personal)
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(render(), end="")
