"""What others have attached to the derived tables: a rebuild replaces these, so it would be lost.

Rights, row level security, comments and storage parameters are carried over. Anything else (a view,
a trigger, an index, a column, a constraint, a publication) is named, and the rebuild refuses: it
can't know how to make that again. Views on SQLite name their tables, so they need nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, Table, bindparam, text

from jobquest.read.tables import SHADOW_PREFIX

MAX_NAMED = 10
_COLUMNS = {
    "sqlite": """
        SELECT m.name, c.name FROM sqlite_master m, pragma_table_xinfo(m.name) c
        WHERE m.type = 'table' AND m.name IN :names
    """,
    "postgresql": """
        SELECT t.relname, c.attname FROM pg_class t JOIN pg_attribute c ON c.attrelid = t.oid
        WHERE t.relname IN :names AND pg_table_is_visible(t.oid)
        AND c.attnum > 0 AND NOT c.attisdropped
    """,
}
_ATTACHED = {
    "sqlite": """
        SELECT tbl_name, type || ' ' || name FROM sqlite_master
        WHERE type IN ('trigger', 'index') AND sql > '' AND tbl_name COLLATE NOCASE IN :names
        AND NOT (type = 'index' AND name IN :own) ORDER BY 1, 2
    """,
    # Whatever PostgreSQL would drop with a table, or would refuse to drop it for.
    "postgresql": """
        WITH live AS (
            SELECT t.oid, t.relname, n.nspname, r.oid AS type, r.typarray AS array
            FROM pg_class t JOIN pg_type r ON r.oid = t.reltype
            JOIN pg_namespace n ON n.oid = t.relnamespace
            WHERE t.relname IN :names AND pg_table_is_visible(t.oid)
        )
        SELECT t.relname,
            regexp_replace(pg_describe_object(d.classid, d.objid, 0), '^rule "?_RETURN"? on ', '')
        FROM pg_depend d
        JOIN live t ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
            OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.type, t.array)
        LEFT JOIN pg_class i ON d.classid = 'pg_class'::regclass AND i.oid = d.objid
        LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
        WHERE d.deptype IN ('n', 'a')
        AND d.classid NOT IN ('pg_attrdef'::regclass, 'pg_publication_rel'::regclass)
        AND NOT coalesce(i.relkind IN ('i', 'S') AND i.relname IN :own, false)
        AND NOT coalesce(c.conrelid = t.oid
            AND (c.contype IN ('p', 'n') OR c.contype = 'u' AND c.conname IN :own), false)
        UNION SELECT t.relname, 'publication ' || p.pubname
        FROM pg_publication_tables p JOIN live t ON p.schemaname = t.nspname
            AND p.tablename = t.relname
        UNION SELECT t.relname, 'parent table ' || h.inhparent::regclass
        FROM pg_inherits h JOIN live t ON h.inhrelid = t.oid
        ORDER BY 1, 2
    """,
}
# PostgreSQL's default privileges would give rights on new tables that the old ones need not have.
_DEFAULT_RIGHTS = """
    SELECT DISTINCT format('REVOKE ALL ON %s %I FROM %s',
        CASE t.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, t.relname,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
    FROM pg_class t, aclexplode(t.relacl) a
    WHERE starts_with(t.relname, :prefix) AND t.relkind IN ('r', 'S')
    AND pg_table_is_visible(t.oid) AND a.grantee <> t.relowner
"""
_CARRIED_OVER = """
    SELECT 1, format('REVOKE ALL ON %I FROM %I', relname, pg_get_userbyid(relowner))
    FROM pg_class WHERE oid = to_regclass(:name) AND relacl IS NOT NULL
    UNION ALL
    SELECT 2, format('GRANT %s ON %I TO %s', a.what, t.relname, CASE a.grantee WHEN 0 THEN 'PUBLIC'
        ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_class t, LATERAL (
        SELECT privilege_type AS what, grantee, is_grantable FROM aclexplode(t.relacl)
        UNION ALL
        SELECT format('%s (%I)', o.privilege_type, c.attname), o.grantee, o.is_grantable
        FROM pg_attribute c, aclexplode(c.attacl) o
        WHERE c.attrelid = t.oid AND NOT c.attisdropped
    ) a
    WHERE t.oid = to_regclass(:name)
    UNION ALL
    SELECT 2, format('ALTER TABLE %I SET (%I = %L)', relname, split_part(option, '=', 1),
        substr(option, strpos(option, '=') + 1))
    FROM pg_class, unnest(reloptions) option WHERE oid = to_regclass(:name)
    UNION ALL
    SELECT 2, format('ALTER TABLE %I %s ROW LEVEL SECURITY', relname, what)
    FROM pg_class, LATERAL (VALUES ('ENABLE', relrowsecurity), ('FORCE', relforcerowsecurity))
        security (what, is_set)
    WHERE oid = to_regclass(:name) AND is_set
    UNION ALL
    SELECT 2, format('COMMENT ON %s IS %L',
        CASE d.objsubid WHEN 0 THEN format('TABLE %I', t.relname)
        ELSE format('COLUMN %I.%I', t.relname, c.attname) END, d.description)
    FROM pg_description d JOIN pg_class t ON t.oid = d.objoid
    LEFT JOIN pg_attribute c ON c.attrelid = t.oid AND c.attnum = d.objsubid
    WHERE d.classoid = 'pg_class'::regclass AND t.oid = to_regclass(:name)
    ORDER BY 1
"""


def attached(connection: Connection, live: Collection[Table]) -> list[str]:
    """What a rebuild of these tables would lose, such as "events: view of_ada"; the first ones, if
    these are many."""
    names = [table.name for table in live]
    own = [str(index.name) for table in live for index in table.indexes]
    for column in (column for table in live for column in table.c):
        name = f"{column.table.name}_{column.name}"
        own += [f"{name}_key", f"{name}_seq"]  # chosen by PostgreSQL
        own.append(f"{SHADOW_PREFIX}{name}_seq")  # which earlier versions left
    columns = {(table.name, column.name) for table in live for column in table.c}
    found = [
        f"{table}: column {column}"
        for table, column in _rows(connection, _COLUMNS, names=names)
        if (table, column) not in columns
    ]
    found += [f"{row[0]}: {row[1]}" for row in _rows(connection, _ATTACHED, names=names, own=own)]
    lines = [" ".join(line.split()) for line in found]
    more = len(lines) - MAX_NAMED
    return [*lines[:MAX_NAMED], f"{more} more"] if more > 0 else lines


def _rows(
    connection: Connection, queries: dict[str, str], **lists: list[str]
) -> list[tuple[str, str]]:
    query = text(queries[connection.dialect.name]).bindparams(
        *(bindparam(name, expanding=True) for name in lists)
    )
    return [(row[0], row[1]) for row in connection.execute(query, lists)]


def default_rights(connection: Connection) -> list[str]:
    """The statements that revoke what others may do with new shadow tables."""
    if connection.dialect.name == "sqlite":
        return []
    return _statements(connection, _DEFAULT_RIGHTS, prefix=SHADOW_PREFIX)


def carried_over(connection: Connection, live: Table) -> list[str]:
    """The statements that give a new table of this name what others may do with this one and with
    its columns, its comments, and how it is stored."""
    if connection.dialect.name == "sqlite":
        return []
    return _statements(connection, _CARRIED_OVER, name=live.name)


def _statements(connection: Connection, query: str, **values: str) -> list[str]:
    """For `exec_driver_sql`, which takes a % for a parameter; `text` would take a colon for one."""
    return [str(row[-1]).replace("%", "%%") for row in connection.execute(text(query), values)]
