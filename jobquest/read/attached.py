"""What others have attached to the derived tables: a rebuild replaces these, so it would be lost.

Grants, row level security and storage parameters are carried over. Anything else (a view, a
trigger, an index, a foreign key, a publication) is named, and the rebuild refuses: it can't know
how to make that again. Views on SQLite name their tables, so they need nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Table, bindparam, text

_ATTACHED = {
    "sqlite": """
        SELECT tbl_name, type || ' ' || name, name FROM sqlite_master
        WHERE type IN ('trigger', 'index') AND sql > '' AND tbl_name IN :names ORDER BY 1, 2
    """,
    # Whatever PostgreSQL would drop with a table, or would refuse to drop it for; without the
    # table's own constraints, defaults and sequences.
    "postgresql": """
        SELECT DISTINCT t.relname,
            regexp_replace(pg_describe_object(d.classid, d.objid, 0), '^rule "?_RETURN"? on ', ''),
            i.relname
        FROM pg_depend d
        JOIN pg_class t ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
            OR d.refclassid = 'pg_type'::regclass AND d.refobjid = t.reltype
        LEFT JOIN pg_class i ON d.classid = 'pg_class'::regclass AND i.oid = d.objid
        LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
        WHERE t.relname IN :names AND pg_table_is_visible(t.oid)
        AND d.deptype IN ('n', 'a') AND d.classid <> 'pg_attrdef'::regclass
        AND c.conrelid IS DISTINCT FROM t.oid AND i.relkind IS DISTINCT FROM 'S' ORDER BY 1, 2
    """,
}
_CARRIED_OVER = """
    SELECT format('GRANT %s ON %I TO %s', a.what, t.relname, CASE a.grantee WHEN 0 THEN 'PUBLIC'
        ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_class t, LATERAL (
        SELECT privilege_type AS what, grantee, is_grantable FROM aclexplode(t.relacl)
        UNION ALL
        SELECT format('%s (%I)', o.privilege_type, c.attname), o.grantee, o.is_grantable
        FROM pg_attribute c, aclexplode(c.attacl) o WHERE c.attrelid = t.oid
    ) a
    WHERE t.oid = to_regclass(quote_ident(:name))
    UNION ALL
    SELECT format('ALTER TABLE %I SET (%s)', relname, array_to_string(reloptions, ', '))
    FROM pg_class WHERE oid = to_regclass(quote_ident(:name)) AND reloptions IS NOT NULL
    UNION ALL
    SELECT format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', relname)
    FROM pg_class WHERE oid = to_regclass(quote_ident(:name)) AND relrowsecurity
"""


def attached(connection: Connection, live: Iterable[Table]) -> list[str]:
    """What a rebuild of these tables would lose, such as "events: view of_ada"."""
    indexes = {index.name for table in live for index in table.indexes}
    query = text(_ATTACHED[connection.dialect.name]).bindparams(bindparam("names", expanding=True))
    found = connection.execute(query, {"names": [table.name for table in live]})
    return [f"{table}: {what}" for table, what, index in found if index not in indexes]


def carried_over(connection: Connection, live: Table) -> list[str]:
    """The statements that give a new table of this name what others may do with this one and with
    its columns, and how it is stored."""
    if connection.dialect.name == "sqlite":
        return []
    return list(connection.scalars(text(_CARRIED_OVER), {"name": live.name}))
